// Runs XLA's calls on a single thread, so that there is one team of OpenMP threads and concurrent callers take turns.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <new>
#include <string>
#include <thread>

#include "xla/ffi/api/ffi.h"

// Runs one task at a time on its own thread. Never destroyed, because a process may exit while XLA still computes.
class Worker {
 public:
  Worker() : thread_([this] { loop(); }) { thread_.detach(); }

  void run(const std::function<void()>& task) {
    std::lock_guard<std::mutex> turn(turn_);
    std::unique_lock<std::mutex> lock(mutex_);
    task_ = &task;
    changed_.notify_all();
    changed_.wait(lock, [this] { return task_ == nullptr; });
  }

 private:
  void loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return task_ != nullptr; });
      (*task_)();
      task_ = nullptr;
      changed_.notify_all();
    }
  }

  std::mutex turn_, mutex_;
  std::condition_variable changed_;
  const std::function<void()>* task_ = nullptr;
  std::thread thread_;
};

inline Worker& worker() {
  static Worker* the_worker = new Worker;
  return *the_worker;
}

// Runs a task and reports its outcome to XLA.
inline xla::ffi::Error on_worker(const std::function<void()>& task) {
  using xla::ffi::Error;
  using xla::ffi::ErrorCode;
  Error problem = Error::Success();
  worker().run([&] {
    try {
      task();
    } catch (const std::bad_alloc&) {
      problem = Error(ErrorCode::kResourceExhausted, "the native library is out of memory");
    } catch (const std::exception& error) {
      problem = Error(ErrorCode::kInternal, std::string("the native library: ") + error.what());
    }
  });
  return problem;
}
