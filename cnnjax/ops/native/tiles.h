// The register tile of a matrix product: some rows by some vectors of columns, whose sums stay in registers.
#pragma once

#include "simd.h"

namespace CNNJAX_LEVEL {

constexpr int kVectors = kRegisters == 32 ? 4 : 2, kRows = 6;  // maximum size of a tile
constexpr int64_t kPanel = kVectors * kLanes;                   // columns
constexpr int64_t kLine = 16;                                   // floats in a cache line

// The function `OfSize::kOf<rows, vectors>` for a given size.
template <typename OfSize, int V>
auto of_rows(int64_t rows) {
  constexpr decltype(OfSize::template kOf<1, 1>) kAll[] = {OfSize::template kOf<1, V>, OfSize::template kOf<2, V>,
                                                           OfSize::template kOf<3, V>, OfSize::template kOf<4, V>,
                                                           OfSize::template kOf<5, V>, OfSize::template kOf<6, V>};
  static_assert(sizeof kAll / sizeof *kAll == kRows);
  return kAll[rows - 1];
}
template <typename OfSize>
auto of_size(int64_t rows, int64_t vectors) {
  return vectors == 1   ? of_rows<OfSize, 1>(rows)
         : vectors == 2 ? of_rows<OfSize, 2>(rows)
         : vectors == 3 ? of_rows<OfSize, 3>(rows)
                        : of_rows<OfSize, 4>(rows);
}

}  // namespace CNNJAX_LEVEL
