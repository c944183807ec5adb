// WebP through libwebp; of an animation the first frame on its canvas, the rest of which is black.
#include "codec.h"

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
  const size_t room = static_cast<size_t>(frame.height - 1) * static_cast<size_t>(stride) + static_cast<size_t>(3 * frame.width);
  // Alpha is dropped, but libwebp decodes it all the same and notices damage in it.
  if (!WebPDecodeRGBInto(frame.fragment.bytes, frame.fragment.size, corner, room, stride)) fail(ExitCode::data, "image: WebP: broken picture data");
}

}  // namespace fusion
