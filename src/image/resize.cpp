// Pillow's bicubic resize and the five tiles. The horizontal pass works on a transposed strip of rows, so that both passes are the same
// weighted sum of rows of bytes.
#include "fusion/image/resize.h"

#include "fusion/base/error.h"
#include "mix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

namespace fusion {
namespace {

using Buffer = std::unique_ptr<uint8_t[]>;
Buffer make_buffer(size_t size) { return std::make_unique_for_overwrite<uint8_t[]>(size); }

// Keys' cubic with a = -1/2; the order of operations is Pillow's, as the bits of the weights depend on it.
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

/// One pass: for every output position the window of input positions and its weights (formats.md 5.2).
class Axis {
 public:
  Axis(int in, int out, Simd simd) : in_(in), out_(out), kernel_(&mix_kernel(simd)) {
    const double scale = static_cast<double>(in) / out, stretch = std::max(scale, 1.0), support = 2.0 * stretch;
    capacity_ = static_cast<int>(std::ceil(support)) * 2 + 1;
    capacity_ += (kernel_->group - capacity_ % kernel_->group) % kernel_->group;
    const auto positions = static_cast<size_t>(out);
    first_.resize(positions), count_.resize(positions);
    weights_.resize(positions * static_cast<size_t>(capacity_));  // zero beyond a window's count
    std::vector<double> exact(static_cast<size_t>(capacity_));
    bool packs = true;
    for (int x = 0; x < out; ++x) {
      const double centre = (x + 0.5) * scale;
      const int first = std::max(static_cast<int>(centre - support + 0.5), 0), last = std::min(static_cast<int>(centre + support + 0.5), in);
      const int count = last - first;
      double sum = 0.0;
      for (int j = 0; j < count; ++j) sum += exact[static_cast<size_t>(j)] = cubic((j + first - centre + 0.5) * (1.0 / stretch));
      int32_t* weights = &weights_[static_cast<size_t>(x * capacity_)];
      for (int j = 0; j < count; ++j) {
        double weight = exact[static_cast<size_t>(j)];
        if (sum != 0.0) weight /= sum;
        weight *= 1 << kWeightBits;
        weights[j] = static_cast<int32_t>(weight < 0 ? weight - 0.5 : weight + 0.5);
        packs = packs && std::abs(weights[j]) <= kernel_->limit;
      }
      first_[static_cast<size_t>(x)] = first, count_[static_cast<size_t>(x)] = count;
    }
    if (!packs) kernel_ = &mix_kernel(Simd::scalar);
    pack();
  }

  int in() const { return in_; }
  int out() const { return out_; }
  bool skipped() const { return in_ == out_; }

  /// Writes output position x: `length` bytes made of the rows of its window. `rows` is input position 0.
  void mix(const uint8_t* rows, ptrdiff_t stride, int x, uint8_t* out, size_t length) const {
    const auto at = static_cast<size_t>(x);
    const Taps taps{rows + first_[at] * stride, stride, count_[at], &weights_[at * static_cast<size_t>(capacity_)], &packed_[at * words_]};
    kernel_->mix(taps, out, length);
  }

 private:
  void pack() {
    const auto group = static_cast<size_t>(kernel_->group), word = static_cast<size_t>(kernel_->words);
    words_ = static_cast<size_t>(capacity_) / group * word;
    packed_.resize(words_ * static_cast<size_t>(out_));
    for (size_t unit = 0; unit < packed_.size() / word; ++unit) kernel_->pack(&weights_[unit * group], &packed_[unit * word]);
  }

  int in_, out_;
  const MixKernel* kernel_;
  int capacity_;
  std::vector<int> first_, count_;
  std::vector<int32_t> weights_, packed_;  // [out, capacity], [out, words]
  size_t words_ = 0;
};

/// Rows of RGB bytes that somebody owns.
struct Rows {
  const uint8_t* data;
  int width, height;
  ptrdiff_t stride() const { return ptrdiff_t{3} * width; }
};

constexpr int kStrip = 64;  // rows per strip: one cache line of a transposed column

/// A picture after its horizontal pass; where the width stays, the picture itself.
struct Middle {
  Buffer owned;
  Rows rows;
};

/// Horizontal passes of one picture to several widths. The transposed strips are shared.
std::vector<Middle> horizontal(const Rows& in, std::span<const Axis* const> axes) {
  constexpr size_t pixel = 3 * kStrip;
  std::vector<Middle> middles;
  int widest = 0;
  for (const Axis* axis : axes) {
    const Rows rows{in.data, axis->out(), in.height};
    middles.push_back({nullptr, rows});
    if (axis->skipped()) continue;
    middles.back().owned = make_buffer(static_cast<size_t>(rows.stride()) * static_cast<size_t>(rows.height));
    middles.back().rows.data = middles.back().owned.get();
    widest = std::max(widest, axis->out());
  }
  if (widest == 0) return middles;

  const size_t strip_size = static_cast<size_t>(in.width) * pixel;
  const Buffer strip = make_buffer(strip_size), mixed = make_buffer(static_cast<size_t>(widest) * pixel);
  for (int top = 0; top < in.height; top += kStrip) {
    const int height = std::min(kStrip, in.height - top);
    // Columns beyond a short last strip are summed too and then dropped.
    if (height < kStrip) std::memset(strip.get(), 0, strip_size);
    transpose(in.data + top * in.stride(), in.stride(), height, 3 * in.width, strip.get(), kStrip);
    for (size_t k = 0; k < axes.size(); ++k) {
      const Axis& axis = *axes[k];
      if (axis.skipped()) continue;
      for (int x = 0; x < axis.out(); ++x) axis.mix(strip.get(), pixel, x, mixed.get() + static_cast<size_t>(x) * pixel, pixel);
      const ptrdiff_t stride = middles[k].rows.stride();
      transpose(mixed.get(), kStrip, 3 * axis.out(), height, middles[k].owned.get() + top * stride, stride);
    }
  }
  return middles;
}

/// A rectangle of the output of a vertical pass: rows in output rows, columns in bytes.
struct Crop {
  int top, height;
  size_t begin, length;
};

/// Vertical pass that writes only `crop`, densely.
void vertical(const Rows& in, const Axis& axis, const Crop& crop, uint8_t* out) {
  for (int y = crop.top; y < crop.top + crop.height; ++y, out += crop.length) {
    if (axis.skipped())
      std::memcpy(out, in.data + y * in.stride() + crop.begin, crop.length);
    else
      axis.mix(in.data + crop.begin, in.stride(), y, out, crop.length);
  }
}

// formats.md 5.2: Pillow 13 starts vertically when the height shrinks much more than the width.
bool vertical_first(const Image& image, int width, int height, ResizeOrder order) {
  return order == ResizeOrder::pillow13 && image.height > height && image.height - height > 2 * (int64_t{image.width} - width);
}

void check_image(const Image& image, int width, int height) {
  FUSION_CHECK(
      image.width > 0 && image.height > 0 && image.rgb.size() == size_t{3} * static_cast<size_t>(image.width) * static_cast<size_t>(image.height),
      "image: {} bytes for a picture of {}x{}", image.rgb.size(), image.width, image.height);
  FUSION_CHECK(width > 0 && height > 0, "image: resize to {}x{}", width, height);
}

}  // namespace

Image resize_bicubic(const Image& image, int width, int height, ResizeOrder order, Simd simd) {
  check_image(image, width, height);
  const Axis across(image.width, width, simd), down(image.height, height, simd);
  const Axis* const axes[] = {&across};
  const Rows in{image.rgb.data(), image.width, image.height};
  Image out{width, height, std::vector<uint8_t>(size_t{3} * static_cast<size_t>(width) * static_cast<size_t>(height))};
  if (vertical_first(image, width, height, order)) {
    const auto stride = static_cast<size_t>(in.stride());
    const Buffer middle = make_buffer(stride * static_cast<size_t>(height));
    vertical(in, down, {0, height, 0, stride}, middle.get());
    const Rows rows = horizontal({middle.get(), image.width, height}, axes)[0].rows;
    std::memcpy(out.rgb.data(), rows.data, out.rgb.size());
  } else {
    const std::vector<Middle> middle = horizontal(in, axes);
    vertical(middle[0].rows, down, {0, height, 0, static_cast<size_t>(middle[0].rows.stride())}, out.rgb.data());
  }
  return out;
}

std::vector<uint8_t> make_tiles(const Image& image, int side, ResizeOrder order, Simd simd) {
  FUSION_CHECK(side > 0 && side <= 8192, "image: tiles of {} pixels; 1 to 8192", side);
  check_image(image, side, side);
  const int twice = 2 * side;
  if (vertical_first(image, twice, twice, order) || vertical_first(image, side, side, order)) {
    // Rare: each resize goes its own way; the passes below then only copy and cut.
    const Image small = resize_bicubic(image, side, side, order, simd);
    std::vector<uint8_t> tiles = make_tiles(resize_bicubic(image, twice, twice, order, simd), side, ResizeOrder::pillow, simd);
    std::copy(small.rgb.begin(), small.rgb.end(), tiles.end() - static_cast<ptrdiff_t>(small.rgb.size()));
    return tiles;
  }
  const Axis across[] = {{image.width, twice, simd}, {image.width, side, simd}}, down[] = {{image.height, twice, simd}, {image.height, side, simd}};
  const Axis* const axes[] = {&across[0], &across[1]};
  const std::vector<Middle> middle = horizontal({image.rgb.data(), image.width, image.height}, axes);
  const size_t row = size_t{3} * static_cast<size_t>(side), tile = row * static_cast<size_t>(side);
  std::vector<uint8_t> tiles(5 * tile);
  for (int quarter = 0; quarter < 4; ++quarter)
    vertical(middle[0].rows, down[0], {quarter / 2 * side, side, static_cast<size_t>(quarter % 2) * row, row},
             &tiles[static_cast<size_t>(quarter) * tile]);
  vertical(middle[1].rows, down[1], {0, side, 0, row}, &tiles[4 * tile]);
  return tiles;
}

Image resize_bicubic(const Image& image, int width, int height, ResizeOrder order) {
  return resize_bicubic(image, width, height, order, best_simd());
}

std::vector<uint8_t> make_tiles(const Image& image, int side, ResizeOrder order) { return make_tiles(image, side, order, best_simd()); }

}  // namespace fusion
