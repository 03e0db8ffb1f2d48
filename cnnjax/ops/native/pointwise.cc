#include "pointwise.h"

#include <algorithm>

#include "nonlinearities.h"

namespace pointwise {
namespace CNNJAX_LEVEL {

void apply_to_all(Nonlinearity which, float* values, int64_t count, int threads) {
  constexpr int64_t kBlock = 4096;
  const auto apply = ::CNNJAX_LEVEL::apply_of(which);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t first = 0; first < count; first += kBlock) {
    apply(values + first, values + first, std::min(kBlock, count - first));
  }
}

Apply* const kApply = apply_to_all;

}  // namespace CNNJAX_LEVEL
}  // namespace pointwise
