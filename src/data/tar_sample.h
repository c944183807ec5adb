// A row and its pictures as members of a tar shard.
#pragma once

#include "fusion/data/tar.h"

#include <functional>
#include <vector>

namespace fusion {

/// The ending that a picture gets in a shard: that of its name in lower case, "jpg" for one that no picture has (decoders look at the content).
std::string picture_ending(std::string_view name);

struct PictureBytes {
  std::string ending;
  std::string_view bytes;
};

/// Gives `write` the members KEY.json and KEY.<ending>, or KEY.0.<ending>, KEY.1.<ending> for several pictures.
void write_tar_sample(const std::string& key, std::string_view row, const std::vector<PictureBytes>& pictures,
                      const std::function<void(std::string_view)>& write);

/// The bytes that one with these sizes takes.
uint64_t tar_sample_bytes(const std::string& key, uint64_t row, const std::vector<uint64_t>& pictures);

}  // namespace fusion
