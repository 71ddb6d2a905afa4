// A mutex that a fork takes first. So a forked child finds it free and what it guards whole, though
// of all threads only the one that forked lives on there.
#pragma once

#include <atomic>
#include <mutex>
#include <set>

#include <pthread.h>

class ForkSafeMutex {
  public:
    ForkSafeMutex() {
        const std::lock_guard<std::mutex> lock(all().mutex);
        all().mutexes.insert(this);
    }

    ~ForkSafeMutex() {
        const std::lock_guard<std::mutex> lock(all().mutex);
        all().mutexes.erase(this);
    }

    ForkSafeMutex(const ForkSafeMutex &) = delete;
    ForkSafeMutex &operator=(const ForkSafeMutex &) = delete;

    void lock() { mutex_.lock(); }
    void unlock() { mutex_.unlock(); }

    // How many forks lie between this process and the one that loaded the module.
    static unsigned forks() { return all().forks; }

  private:
    struct All {
        std::mutex mutex;
        std::set<ForkSafeMutex *> mutexes;
        std::atomic<unsigned> forks{0};

        All() { pthread_atfork(before_fork, after_fork, in_child); }
    };

    static All &all() {
        static All *const made = new All; // never destroyed: others may outlive it
        return *made;
    }

    static void before_fork() {
        all().mutex.lock();
        for (ForkSafeMutex *one : all().mutexes)
            one->lock();
    }

    static void after_fork() {
        for (ForkSafeMutex *one : all().mutexes)
            one->unlock();
        all().mutex.unlock();
    }

    static void in_child() {
        ++all().forks;
        after_fork();
    }

    std::mutex mutex_;
};
