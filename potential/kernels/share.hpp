// Work in parallel on the threads of XLA.

#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>

#include "xla/ffi/api/ffi.h"

namespace adatom {

// work(0) … work(parts − 1), by this thread and by those of the pool that are free; returns when all is done. The pool may be
// busy for as long as it likes: what it has not begun, this thread does.
template <class Work> void share(xla::ffi::ThreadPool& pool, int parts, const Work& work) {
  struct Counts {
    std::atomic<int> next{0}, done{0};
  };
  auto counts = std::make_shared<Counts>();
  auto some = [counts, parts, &work] {
    for (int p; (p = counts->next.fetch_add(1)) < parts; counts->done.fetch_add(1)) work(p);
  };
  const int helpers = std::min<int>(int(pool.num_threads()), parts) - 1;
  for (int h = 0; h < helpers; ++h) pool.Schedule([some] { some(); });
  some();
  while (counts->done.load() < parts) std::this_thread::yield();
}

}  // namespace adatom
