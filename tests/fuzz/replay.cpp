// libFuzzer's place where only g++ is: replay FOLDER SECONDS takes every file of the folder, then
// random changes of them until the time is up.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int, char **args) {
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::seconds(std::atoi(args[2]));
    std::vector<std::vector<uint8_t>> inputs;
    for (const auto &entry : std::filesystem::directory_iterator(args[1])) {
        std::ifstream file(entry.path(), std::ios::binary);
        inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
        LLVMFuzzerTestOneInput(inputs.back().data(), inputs.back().size());
    }
    std::mt19937 random(0);
    long runs = static_cast<long>(inputs.size());
    for (; Clock::now() < end; ++runs) {
        std::vector<uint8_t> input = inputs[random() % inputs.size()];
        for (unsigned i = random() % 8; i > 0 && !input.empty(); --i)
            input[random() % input.size()] = static_cast<uint8_t>(random());
        input.resize(input.size() + random() % 8);
        LLVMFuzzerTestOneInput(input.data(), input.size());
    }
    std::fprintf(stderr, "Done %ld runs\n", runs);
}
