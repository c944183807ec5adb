// Pillow's bicubic resize and the five tiles. The horizontal pass works on a transposed strip of rows, so that both passes are the same
// weighted sum of rows of bytes.
#include "fusion/image/resize.h"

#include "codec.h"
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
    if (skipped()) return;
    const double scale = static_cast<double>(in) / out, stretch = std::max(scale, 1.0), support = 2.0 * stretch;
    const auto group = static_cast<size_t>(kernel_->group), positions = static_cast<size_t>(out);
    capacity_ = (2 * static_cast<size_t>(std::ceil(support)) + 1 + group - 1) / group * group;
    weights_.resize(positions * capacity_);  // zero beyond a window's count
    std::vector<double> exact(capacity_);
    for (size_t x = 0; x < positions; ++x) {
      const double centre = (static_cast<double>(x) + 0.5) * scale;
      const int first = std::max(static_cast<int>(centre - support + 0.5), 0), last = std::min(static_cast<int>(centre + support + 0.5), in);
      const auto count = static_cast<size_t>(last - first);
      double sum = 0.0;
      for (size_t j = 0; j < count; ++j) sum += exact[j] = cubic((static_cast<double>(j) + first - centre + 0.5) * (1.0 / stretch));
      for (size_t j = 0; j < count; ++j) weights_[x * capacity_ + j] = static_cast<int32_t>(std::round(exact[j] / sum * (1 << kWeightBits)));
      first_.push_back(first), count_.push_back(last - first);
    }
    pack();
  }

  int in() const { return in_; }
  int out() const { return out_; }
  bool skipped() const { return in_ == out_; }
  int first(int x) const { return skipped() ? x : first_[static_cast<size_t>(x)]; }
  int count(int x) const { return skipped() ? 1 : count_[static_cast<size_t>(x)]; }
  int max_count() const { return static_cast<int>(capacity_); }

  /// Output position x: `length` bytes from `rows`, the first of its count(x) rows, `stride` bytes apart.
  void mix(const uint8_t* rows, ptrdiff_t stride, int x, uint8_t* out, size_t length) const {
    if (skipped()) {
      std::memcpy(out, rows, length);
      return;
    }
    const auto at = static_cast<size_t>(x);
    kernel_->mix({rows, stride, count_[at], &weights_[at * capacity_], &packed_[at * words_]}, out, length);
  }

 private:
  void pack() {
    const auto group = static_cast<size_t>(kernel_->group), word = static_cast<size_t>(kernel_->words);
    words_ = capacity_ / group * word;
    packed_.resize(words_ * static_cast<size_t>(out_));
    for (size_t unit = 0; unit < packed_.size() / word; ++unit) kernel_->pack(&weights_[unit * group], &packed_[unit * word]);
  }

  int in_, out_;
  const MixKernel* kernel_;
  size_t capacity_ = 1;  // room for a window, a multiple of the kernel's group
  std::vector<int> first_, count_;
  std::vector<int32_t> weights_, packed_;  // [out, capacity], [out, words]
  size_t words_ = 0;
};

constexpr int kStrip = 64;  // rows per strip: one cache line of a transposed column

/// Where the rows of a picture go: into `columns` tiles side by side, tile after tile, each dense. One column is a plain picture.
struct Grid {
  uint8_t* out;
  int columns, tile_height;
};

/// The vertical pass of rows of `stride` bytes. Rows arrive in strips; no more are held than a window and a strip need.
class Vertical {
 public:
  Vertical(const Axis& axis, ptrdiff_t stride, const Grid& grid)
      : axis_(axis), stride_(stride), grid_(grid), held_(make_buffer(static_cast<size_t>(stride) * static_cast<size_t>(axis.max_count() + kStrip))) {}

  /// Room for the next strip of at most kStrip rows.
  uint8_t* room() { return held_.get() + (end_ - begin_) * stride_; }
  /// `rows` rows are in the room: writes every output row whose window is complete.
  void feed(int rows) {
    end_ += rows;
    run(held_.get());
    if (next_ == axis_.out()) return;
    const int keep_from = std::min(axis_.first(next_), end_);
    std::memmove(held_.get(), held_.get() + (keep_from - begin_) * stride_, static_cast<size_t>((end_ - keep_from) * stride_));
    begin_ = keep_from;
  }
  /// The whole input at once, instead of strips.
  void run_all(const uint8_t* rows) {
    end_ = axis_.in();
    run(rows);
  }

 private:
  // `rows` is input row begin_.
  void run(const uint8_t* rows) {
    const ptrdiff_t length = stride_ / grid_.columns;
    for (; next_ < axis_.out() && axis_.first(next_) + axis_.count(next_) <= end_; ++next_) {
      const uint8_t* window = rows + (axis_.first(next_) - begin_) * stride_;
      for (int column = 0; column < grid_.columns; ++column) {
        const ptrdiff_t tile = next_ / grid_.tile_height * grid_.columns + column, row = next_ % grid_.tile_height;
        axis_.mix(window + column * length, stride_, next_, grid_.out + (tile * grid_.tile_height + row) * length, static_cast<size_t>(length));
      }
    }
  }

  const Axis& axis_;
  ptrdiff_t stride_;
  Grid grid_;
  Buffer held_;
  int begin_ = 0, end_ = 0;  // input rows held
  int next_ = 0;             // output row
};

/// One resize: across, then down.
struct Resize {
  Axis across;
  Axis down;
  Grid grid;
};

/// Several resizes of one picture, horizontal pass first. They share the transposed strips.
void run_resizes(const Image& image, std::span<const Resize> resizes) {
  constexpr size_t pixel = 3 * kStrip;
  std::vector<Vertical> passes;
  int widest = 0;
  for (const Resize& resize : resizes) {
    passes.emplace_back(resize.down, ptrdiff_t{3} * resize.across.out(), resize.grid);
    if (resize.across.skipped())
      passes.back().run_all(image.rgb.data());
    else
      widest = std::max(widest, resize.across.out());
  }
  if (widest == 0) return;

  const ptrdiff_t stride = ptrdiff_t{3} * image.width;
  const size_t strip_size = static_cast<size_t>(image.width) * pixel;
  const Buffer strip = make_buffer(strip_size), mixed = make_buffer(static_cast<size_t>(widest) * pixel);
  for (int top = 0; top < image.height; top += kStrip) {
    const int height = std::min(kStrip, image.height - top);
    if (height < kStrip) std::memset(strip.get(), 0, strip_size);  // columns beyond a short last strip are summed too, then dropped
    transpose(image.rgb.data() + top * stride, stride, height, 3 * image.width, strip.get(), kStrip);
    for (size_t k = 0; k < resizes.size(); ++k) {
      const Axis& axis = resizes[k].across;
      if (axis.skipped()) continue;
      for (int x = 0; x < axis.out(); ++x)
        axis.mix(strip.get() + static_cast<size_t>(axis.first(x)) * pixel, pixel, x, mixed.get() + static_cast<size_t>(x) * pixel, pixel);
      transpose(mixed.get(), kStrip, 3 * axis.out(), height, passes[k].room(), ptrdiff_t{3} * axis.out());
      passes[k].feed(height);
    }
  }
}

// formats.md 5.2: Pillow 13 starts vertically when the height shrinks much more than the width.
bool vertical_first(const Image& image, int width, int height, ResizeOrder order) {
  return order == ResizeOrder::pillow13 && image.height > height && image.height - height > 2 * (int64_t{image.width} - width);
}

}  // namespace

Image resize_bicubic(const Image& image, int width, int height, ResizeOrder order, Simd simd) {
  check_image(image);
  FUSION_CHECK(width > 0 && height > 0, "image: resize to {}x{}", width, height);
  if (vertical_first(image, width, height, order))
    return resize_bicubic(resize_bicubic(image, image.width, height, ResizeOrder::pillow, simd), width, height, ResizeOrder::pillow, simd);
  Image out{width, height, std::vector<uint8_t>(size_t{3} * static_cast<size_t>(width) * static_cast<size_t>(height))};
  const Resize resizes[] = {{{image.width, width, simd}, {image.height, height, simd}, {out.rgb.data(), 1, height}}};
  run_resizes(image, resizes);
  return out;
}

namespace {

/// Bytes of one tile.
size_t tile_size(int side) {
  FUSION_CHECK(side > 0 && side <= 8192, "image: tiles of {} pixels; 1 to 8192", side);
  return size_t{3} * static_cast<size_t>(side) * static_cast<size_t>(side);
}

void write_tiles(const Image& image, int side, ResizeOrder order, Simd simd, std::span<uint8_t> tiles) {
  check_image(image);
  const int twice = 2 * side;
  const size_t tile = tile_size(side);
  FUSION_CHECK(tiles.size() == 5 * tile, "image: room of {} bytes for tiles of {}", tiles.size(), 5 * tile);
  // Where Pillow 13 goes vertically first, that resize is made apart and the passes only cut it into tiles.
  const auto shortened = [&](int height) { return vertical_first(image, height, height, order); };
  if (shortened(twice) || shortened(side)) {
    const Image big = shortened(twice) ? resize_bicubic(image, twice, twice, order, simd) : image;
    const Resize resizes[] = {{{big.width, twice, simd}, {big.height, twice, simd}, {tiles.data(), 2, side}}};
    run_resizes(big, resizes);
    const Image small = resize_bicubic(image, side, side, order, simd);
    std::copy(small.rgb.begin(), small.rgb.end(), tiles.begin() + static_cast<ptrdiff_t>(4 * tile));
    return;
  }
  const Resize resizes[] = {{{image.width, twice, simd}, {image.height, twice, simd}, {tiles.data(), 2, side}},
                            {{image.width, side, simd}, {image.height, side, simd}, {tiles.data() + 4 * tile, 1, side}}};
  run_resizes(image, resizes);
}

}  // namespace

std::vector<uint8_t> make_tiles(const Image& image, int side, ResizeOrder order, Simd simd) {
  std::vector<uint8_t> tiles(5 * tile_size(side));
  write_tiles(image, side, order, simd, tiles);
  return tiles;
}

Image resize_bicubic(const Image& image, int width, int height, ResizeOrder order) {
  return resize_bicubic(image, width, height, order, best_simd());
}

std::vector<uint8_t> make_tiles(const Image& image, int side, ResizeOrder order) { return make_tiles(image, side, order, best_simd()); }

void make_tiles(const Image& image, int side, ResizeOrder order, std::span<uint8_t> tiles) { write_tiles(image, side, order, best_simd(), tiles); }

}  // namespace fusion
