// One row of LLaVA data and the batch made of many (data.md 1; docs/architecture.md "row streams").
#pragma once

#include "fusion/base/error.h"
#include "fusion/text/conversation.h"

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <span>

namespace fusion {

/// A picture inside a shard: its bytes, and what keeps them mapped.
struct StoredPicture {
  std::shared_ptr<const void> owner;
  std::span<const std::byte> bytes;
};

struct Sample {
  std::string id;
  std::string image;                    // resolved path, or "shard: member"; empty = text only
  std::optional<StoredPicture> stored;  // empty = `image` is a file
  std::vector<Turn> turns;
  std::string where;   // "file:line" or "file[index]", for messages
  int32_t source = 0;  // index of its data set in the mixture
};

/// A sample that cannot be used, and why. what() holds place, id and reason; `reason` starts with a short word: "image: ...", "roles: ...".
class BadSample : public Error {
 public:
  BadSample(const Sample& sample, const std::string& because)
      : Error(ExitCode::data, fmt::format("data: {} (id {}): {}", sample.where, sample.id, because)),
        id(sample.id),
        where(sample.where),
        reason(because) {}
  std::string id, where, reason;
};

/// Offsets of consecutive segments in a row stream: segment i is rows [offsets[i], offsets[i+1]).
struct Offsets {
  std::vector<int64_t> at = {0};
  int64_t count() const { return static_cast<int64_t>(at.size()) - 1; }
  int64_t length(int64_t i) const { return at[i + 1] - at[i]; }
  int64_t total() const { return at.back(); }
  void push(int64_t length) { at.push_back(at.back() + length); }
};

/// A micro-batch of B samples without padding. May hold zero samples.
struct Batch {
  std::vector<std::string> ids;     // [B] sample ids
  std::vector<std::string> images;  // [B] picture paths, empty = text only
  std::vector<int64_t> positions;   // [B] place of each sample in the epoch's order
  std::vector<int64_t> sources;     // [B] index of each sample's data set in the mixture; empty where nobody asks
  std::vector<int64_t> input_ids;   // rows of all samples, masked tokens already removed; kImage, kLatent placeholders
  std::vector<int64_t> labels;      // same rows
  Offsets tokens;                   // [B]
  std::vector<int64_t> instruct;    // rows of all samples
  Offsets instruct_offsets;         // [B]
  std::vector<bool> has_tiles;      // [B]; false = zero image
  at::Tensor tiles;                 // uint8 [B', 5, R, R, 3] or fp32 [B', 5, 3, R, R] of the samples with tiles, in order

  int64_t size() const { return tokens.count(); }
};

}  // namespace fusion
