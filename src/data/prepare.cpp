#include "fusion/data/prepare.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>

namespace fusion {
namespace {

/// What is left of a text of which only so many rows are kept, once its placeholders are replaced (model.md 4).
struct Extent {
  int64_t rows = 0;        // of all tokens
  int64_t supervised = 0;  // labels among the first max_length rows
};

Extent extent(const EncodedConversation& text, const SampleOptions& options) {
  const bool has_image_token = std::find(text.input_ids.begin(), text.input_ids.end(), kImage) != text.input_ids.end();
  bool first = has_image_token;
  Extent out;
  for (size_t i = 0; i < text.input_ids.size(); ++i) {
    const bool placeholder = text.input_ids[i] == kImage || text.input_ids[i] == kLatent;
    if (!placeholder) {
      out.supervised += text.labels[i] >= 0 && out.rows < options.max_length;
      ++out.rows;
    } else {
      out.rows += first ? options.image_rows : options.latent_rows;
      first = false;
    }
  }
  return out;
}

void cut(EncodedConversation& text, int64_t tokens) {
  const auto n = static_cast<size_t>(tokens);
  if (text.input_ids.size() <= n) return;
  text.input_ids.resize(n);
  text.labels.resize(n);
  std::erase_if(text.turn_ends, [&](int64_t end) { return end > tokens; });
  text.images = std::count(text.input_ids.begin(), text.input_ids.end(), kImage);
  text.supervised = std::count_if(text.labels.begin(), text.labels.end(), [](int64_t label) { return label >= 0; });
}

/// The longest run of whole question-answer pairs from the start that fits, encoded anew: the instruct text must not ask what was cut.
EncodedConversation cut_turns(const Sample& sample, const EncodedConversation& whole, const ConversationEncoder& encoder, const EncodeOptions& encode,
                              const SampleOptions& options) {
  size_t before = 0;  // turns before the first question
  while (before < sample.turns.size() && sample.turns[before].from != "human") ++before;
  for (size_t pairs = whole.turn_ends.size(); pairs-- > 1;) {
    EncodedConversation part = whole;
    cut(part, whole.turn_ends[pairs - 1]);
    if (extent(part, options).rows > options.max_length) continue;
    return encoder.encode({sample.turns.begin(), sample.turns.begin() + static_cast<ptrdiff_t>(before + 2 * pairs)}, encode);
  }
  fail(ExitCode::data, "over_length: the first question and answer alone are longer than {} rows", options.max_length);
}

EncodedSample encode_text(const Sample& sample, const ConversationEncoder& encoder, const SampleOptions& options) {
  const EncodeOptions encode{.has_image = !sample.image.empty(), .latents = options.latents, .collapse_images = options.collapse_images};
  EncodedConversation text = encoder.encode(sample.turns, encode);
  const Extent whole = extent(text, options);
  if (whole.rows > options.max_length) {
    switch (options.over_length) {
      case OverLength::reject:
        fail(ExitCode::data, "over_length: {} rows, the limit is {}", whole.rows, options.max_length);
      case OverLength::turns:
        text = cut_turns(sample, text, encoder, encode, options);
        break;
      case OverLength::cut:  // here by tokens as the released collator does; the model cuts again by rows
        cut(text, options.max_length);
        break;
    }
  }
  if (extent(text, options).supervised == 0) fail(ExitCode::data, "no_target: no supervised token among the first {} rows", options.max_length);
  if (options.max_text_tokens > 0 && static_cast<int64_t>(text.instruct.size()) > options.max_text_tokens)
    text.instruct.resize(static_cast<size_t>(options.max_text_tokens));
  return {std::move(text), whole.rows > options.max_length};
}

Image load_picture(const Sample& sample, const SampleOptions& options) {
  const StoredPicture picture = open_picture(sample);
  return decode_image(picture.bytes, {.max_pixels = options.max_pixels});
}

/// Runs `work`; what is the sample's own fault becomes a BadSample.
template <class Work>
auto blame_sample(const Sample& sample, const Work& work) {
  try {
    return work();
  } catch (const Error& error) {
    if (error.code() != ExitCode::data) throw;
    throw BadSample(sample, error.what());
  }
}

}  // namespace

int64_t tile_bytes(int64_t image_size) { return 5 * image_size * image_size * 3; }

StoredPicture open_picture(const Sample& sample) {
  if (sample.stored) return *sample.stored;
  auto file = std::make_shared<MappedFile>(sample.image);
  const auto bytes = file->bytes();
  return {std::move(file), bytes};
}

std::vector<uint8_t> load_tiles(const Sample& sample, const SampleOptions& options) {
  std::vector<uint8_t> tiles(static_cast<size_t>(tile_bytes(options.image_size)));
  load_tiles(sample, options, tiles);
  return tiles;
}

void load_tiles(const Sample& sample, const SampleOptions& options, std::span<uint8_t> tiles) {
  try {
    make_tiles(load_picture(sample, options), static_cast<int>(options.image_size), options.resize_order, tiles);
  } catch (const Error& error) {
    fail(ExitCode::data, "image: {}: {}", sample.image, error.what());
  }
}

std::vector<uint8_t> load_tiles(const fs::path& image, const SampleOptions& options) {
  Sample sample;
  sample.image = image.string();
  return load_tiles(sample, options);
}

EncodedSample encode_sample(const Sample& sample, const ConversationEncoder& encoder, const SampleOptions& options) {
  return blame_sample(sample, [&] { return encode_text(sample, encoder, options); });
}

void check_picture(const Sample& sample, const SampleOptions& options) {
  try {
    load_picture(sample, options);
  } catch (const Error& error) {
    throw BadSample(sample, fmt::format("image: {}: {}", sample.image, error.what()));
  }
}

PreparedSample prepare_sample(const Sample& sample, const ConversationEncoder& encoder, const SampleOptions& options) {
  std::vector<uint8_t> tiles(sample.image.empty() ? 0 : static_cast<size_t>(tile_bytes(options.image_size)));
  PreparedSample out = prepare_sample(sample, encoder, options, tiles);
  out.tiles = std::move(tiles);
  return out;
}

PreparedSample prepare_sample(const Sample& sample, const ConversationEncoder& encoder, const SampleOptions& options, std::span<uint8_t> tiles) {
  return blame_sample(sample, [&] {
    PreparedSample out{.id = sample.id,
                       .image = sample.image,
                       .text = encode_text(sample, encoder, options).text,
                       .has_picture = !sample.image.empty(),
                       .tiles = {}};
    if (out.has_picture) load_tiles(sample, options, tiles);
    return out;
  });
}

Batch make_batch(const std::vector<PreparedSample>& samples, int64_t image_size) {
  const auto bytes = static_cast<size_t>(tile_bytes(image_size));
  const int64_t pictures = std::count_if(samples.begin(), samples.end(), [](const PreparedSample& sample) { return sample.has_picture; });
  at::Tensor tiles = at::empty({pictures, 5, image_size, image_size, 3}, at::kByte);
  auto* to = tiles.mutable_data_ptr<uint8_t>();
  for (const PreparedSample& sample : samples) {
    if (!sample.has_picture) continue;
    if (sample.tiles.size() != bytes)
      fail(ExitCode::failure, "data: sample {} has {} bytes of tiles, side {} needs {}", sample.id, sample.tiles.size(), image_size, bytes);
    to = std::copy(sample.tiles.begin(), sample.tiles.end(), to);
  }
  return make_batch(samples, std::move(tiles));
}

Batch make_batch(const std::vector<PreparedSample>& samples, at::Tensor tiles) {
  Batch batch;
  for (const PreparedSample& sample : samples) {
    const EncodedConversation& text = sample.text;
    batch.ids.push_back(sample.id);
    batch.images.push_back(sample.image);
    batch.positions.push_back(sample.position);
    batch.sources.push_back(sample.source);
    batch.input_ids.insert(batch.input_ids.end(), text.input_ids.begin(), text.input_ids.end());
    batch.labels.insert(batch.labels.end(), text.labels.begin(), text.labels.end());
    batch.tokens.push(static_cast<int64_t>(text.input_ids.size()));
    batch.instruct.insert(batch.instruct.end(), text.instruct.begin(), text.instruct.end());
    batch.instruct_offsets.push(static_cast<int64_t>(text.instruct.size()));
    batch.has_tiles.push_back(sample.has_picture);
  }
  batch.tiles = std::move(tiles);
  return batch;
}

}  // namespace fusion
