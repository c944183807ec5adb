// From one sample to rows and tiles, and from many to a batch (data.md 2-6).
#pragma once

#include "fusion/base/file.h"
#include "fusion/data/sample.h"
#include "fusion/image/image.h"

namespace fusion {

struct SampleOptions {
  int64_t max_length = 4096;    // tokens kept, before and after image and latent rows are inserted
  int64_t max_text_tokens = 0;  // instruct tokens kept; 0 = all
  int64_t image_size = 384;     // side R of a tile
  int64_t max_pixels = 89'000'000;
  int64_t image_rows = 1;   // rows that take the place of the first placeholder of a sample with <image>
  int64_t latent_rows = 1;  // rows that take the place of any other placeholder: the most that may be drawn
  OverLength over_length = OverLength::cut;
  bool latents = true, collapse_images = true;
  ResizeOrder resize_order = ResizeOrder::pillow;
};

/// A sample ready for a batch.
struct PreparedSample {
  std::string id, image;
  int64_t position = 0;  // in the epoch's order
  int64_t source = 0;    // index of its data set
  EncodedConversation text;
  bool has_picture = false;
  std::vector<uint8_t> tiles;  // [5, R, R, 3] of a picture, unless they were written elsewhere
};

/// Bytes of the five tiles of side `image_size`.
int64_t tile_bytes(int64_t image_size);

/// The bytes of a sample's picture, in its shard or its file. Throws ExitCode::io.
StoredPicture open_picture(const Sample& sample);

/// The five tiles of a sample's picture, [5, R, R, 3]. Throws ExitCode::data naming it.
std::vector<uint8_t> load_tiles(const Sample& sample, const SampleOptions& options);
/// The same, written to `tiles`.
void load_tiles(const Sample& sample, const SampleOptions& options, std::span<uint8_t> tiles);
/// The five tiles of a picture file, [5, R, R, 3]. Throws ExitCode::data naming the file.
std::vector<uint8_t> load_tiles(const fs::path& image, const SampleOptions& options);

/// The text of a sample, encoded and cut.
struct EncodedSample {
  EncodedConversation text;
  bool shortened = false;  // data.max_length took something away
};

/// The text part of prepare_sample. Throws BadSample.
EncodedSample encode_sample(const Sample& sample, const ConversationEncoder& encoder, const SampleOptions& options);
/// Reads and decodes the picture of a sample and drops it. Throws BadSample.
void check_picture(const Sample& sample, const SampleOptions& options);

/// Reads the picture, makes tiles, encodes and cuts the text. A cut sample keeps at least one supervised token among its first max_length rows.
/// Throws BadSample with a reason: those of ConversationEncoder, "image: ...", "no_target: ...", "over_length: ...".
PreparedSample prepare_sample(const Sample& sample, const ConversationEncoder& encoder, const SampleOptions& options);
/// The same with the tiles written to `tiles` where the sample has a picture: a loader prepares samples in the memory of their batch.
PreparedSample prepare_sample(const Sample& sample, const ConversationEncoder& encoder, const SampleOptions& options, std::span<uint8_t> tiles);

/// Concatenates prepared samples of tile side `image_size`. Tiles are uint8 [B', 5, R, R, 3].
Batch make_batch(const std::vector<PreparedSample>& samples, int64_t image_size);
/// The same with the tiles of the samples with a picture in `tiles` already.
Batch make_batch(const std::vector<PreparedSample>& samples, at::Tensor tiles);

}  // namespace fusion
