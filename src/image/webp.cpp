// WebP through libwebp; of an animation the first frame on its canvas, the rest of which is black.
#include "codec.h"

#include <algorithm>
#include <memory>

#include <webp/decode.h>
#include <webp/demux.h>

namespace fusion {
namespace {

const uint8_t* pointer(Bytes file) { return reinterpret_cast<const uint8_t*>(file.data()); }

struct DeleteDemuxer {
  void operator()(WebPDemuxer* demuxer) const { WebPDemuxDelete(demuxer); }
};

}  // namespace

ImageSize webp_size(Bytes file) {
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(pointer(file), file.size(), &features) != VP8_STATUS_OK)
    fail(ExitCode::data, "image: WebP: header broken, cut, or another RIFF file");
  return {features.width, features.height};
}

void decode_webp(Bytes file, Image& image) {
  const WebPData data{pointer(file), file.size()};
  const std::unique_ptr<WebPDemuxer, DeleteDemuxer> demuxer(WebPDemux(&data));  // null for a cut file
  WebPIterator frame;
  if (!demuxer || !WebPDemuxGetFrame(demuxer.get(), 1, &frame)) fail(ExitCode::data, "image: WebP: cut or broken container");
  const std::unique_ptr<WebPIterator, void (*)(WebPIterator*)> release(&frame, WebPDemuxReleaseIterator);
  if (frame.x_offset < 0 || frame.y_offset < 0 || frame.width <= 0 || frame.height <= 0 || frame.x_offset + frame.width > image.width ||
      frame.y_offset + frame.height > image.height)
    fail(ExitCode::data, "image: WebP: frame of {}x{} outside the canvas of {}x{}", frame.width, frame.height, image.width, image.height);

  const int stride = 3 * image.width;
  uint8_t* corner = image.rgb.data() + static_cast<ptrdiff_t>(frame.y_offset) * stride + 3 * frame.x_offset;
  const uint8_t* bytes = frame.fragment.bytes;
  const size_t size = frame.fragment.size;
  bool good;
  if (!frame.has_alpha) {
    const size_t room = static_cast<size_t>(frame.height - 1) * static_cast<size_t>(stride) + static_cast<size_t>(3 * frame.width);
    good = WebPDecodeRGBInto(bytes, size, corner, room, stride) != nullptr;
  } else {  // alpha is dropped, but decoded, so that damage in it is noticed
    std::vector<uint8_t> rgba(size_t{4} * static_cast<size_t>(frame.width) * static_cast<size_t>(frame.height));
    good = WebPDecodeRGBAInto(bytes, size, rgba.data(), rgba.size(), 4 * frame.width) != nullptr;
    for (int y = 0; good && y < frame.height; ++y) {
      const uint8_t* from = rgba.data() + size_t{4} * static_cast<size_t>(frame.width) * static_cast<size_t>(y);
      uint8_t* to = corner + static_cast<ptrdiff_t>(y) * stride;
      for (int x = 0; x < frame.width; ++x, from += 4, to += 3) std::copy_n(from, 3, to);
    }
  }
  if (!good) fail(ExitCode::data, "image: WebP: broken picture data");
}

}  // namespace fusion
