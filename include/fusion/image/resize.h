// The resize with a chosen instruction set, for tests and timings; everybody else calls image.h.
#pragma once

#include "fusion/image/image.h"

namespace fusion {

/// All give the same bytes. avx512 needs F, BW and VNNI.
FUSION_ENUM(Simd, scalar, avx2, avx512)

/// Whether this machine has it.
bool simd_available(Simd simd);
/// The last of the list that this machine has.
Simd best_simd();

Image resize_bicubic(const Image& image, int width, int height, ResizeOrder order, Simd simd);
std::vector<uint8_t> make_tiles(const Image& image, int side, ResizeOrder order, Simd simd);

}  // namespace fusion
