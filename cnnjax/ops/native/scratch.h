// Memory that any call may overwrite. Only the worker thread uses it.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <map>
#include <new>

enum Scratch { kPacked, kPad, kOwn };  // a kernel in oneDNN's layout, oneDNN's scratchpad, our own kernels

// At least `bytes` bytes, aligned to a cache line; grown to the size that the largest call needs.
inline void* scratch(Scratch which, size_t bytes) {
  constexpr size_t kAlignment = 64;
  struct Held {
    void* at = nullptr;
    size_t bytes = 0;
  };
  static auto* kept = new std::map<Scratch, Held>;
  Held& held = (*kept)[which];
  if (held.bytes < bytes || !held.at) {
    std::free(held.at);
    held = {};
    const size_t rounded = (bytes / kAlignment + 1) * kAlignment;
    held.at = std::aligned_alloc(kAlignment, rounded);
    if (!held.at) throw std::bad_alloc();
    held.bytes = rounded;
  }
  return held.at;
}
