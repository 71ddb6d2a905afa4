// A small pool whose workers sleep between jobs: spinning would steal cores from the learner.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "common/fork_safe_mutex.h"

class ThreadPool {
  public:
    // `threads` counts the caller, who works too: ThreadPool(1) starts no thread.
    explicit ThreadPool(int threads) : threads_(threads) { start(); }

    ~ThreadPool() {
        if (is_forked())
            crew_.release();
    }

    ThreadPool(const ThreadPool &) = delete;
    ThreadPool &operator=(const ThreadPool &) = delete;

    int size() const { return threads_; }

    // Calls job(0) ... job(size() - 1), one per thread, and returns when all are done.
    // One caller at a time, guarded by a ForkSafeMutex; `job` must not throw.
    void run(const std::function<void(int)> &job) {
        if (threads_ == 1)
            return job(0);
        if (is_forked()) {
            // The child of a fork has no workers: those it remembers can neither be joined nor
            // woken, nor their condition variables be destroyed.
            crew_.release();
            start();
        }
        crew_->run(job);
    }

  private:
    class Crew {
      public:
        explicit Crew(int workers) {
            try {
                for (int part = 1; part <= workers; ++part)
                    workers_.emplace_back([this, part] { work(part); });
            } catch (...) { // the system has no more threads; those there are still wait
                stop();
                throw;
            }
        }

        ~Crew() { stop(); }

        void run(const std::function<void(int)> &job) {
            {
                std::lock_guard<std::mutex> lock(mutex_);
                job_ = &job;
                ++generation_;
                running_ = static_cast<int>(workers_.size());
            }
            wake_.notify_all();
            job(0);
            std::unique_lock<std::mutex> lock(mutex_);
            done_.wait(lock, [this] { return running_ == 0; });
        }

      private:
        void stop() {
            {
                std::lock_guard<std::mutex> lock(mutex_);
                stopping_ = true;
            }
            wake_.notify_all();
            for (std::thread &worker : workers_)
                worker.join();
        }

        void work(int part) {
            long seen = 0;
            std::unique_lock<std::mutex> lock(mutex_);
            for (;;) {
                wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
                if (stopping_)
                    return;
                seen = generation_;
                const std::function<void(int)> *job = job_;
                lock.unlock();
                (*job)(part);
                lock.lock();
                if (--running_ == 0)
                    done_.notify_one();
            }
        }

        std::vector<std::thread> workers_;
        std::mutex mutex_;
        std::condition_variable wake_;
        std::condition_variable done_;
        const std::function<void(int)> *job_ = nullptr;
        long generation_ = 0;
        int running_ = 0;
        bool stopping_ = false;
    };

    bool is_forked() const { return forks_ != ForkSafeMutex::forks(); }

    void start() {
        forks_ = ForkSafeMutex::forks();
        if (threads_ > 1)
            crew_ = std::make_unique<Crew>(threads_ - 1);
    }

    const int threads_;
    unsigned forks_ = 0;
    std::unique_ptr<Crew> crew_;
};
