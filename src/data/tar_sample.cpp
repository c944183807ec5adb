#include "tar_sample.h"

#include "row_format.h"

#include <fmt/format.h>

namespace fusion {
namespace {

void write_member(const std::string& name, std::string_view bytes, const std::function<void(std::string_view)>& write) {
  write(tar_header(name, bytes.size()));
  write(bytes);
  write(tar_padding(bytes.size()));
}

}  // namespace

std::string picture_ending(std::string_view name) {
  std::string ending(name.substr(name.find_last_of("./") + 1));
  for (char& c : ending)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return is_picture_ending(ending) ? ending : "jpg";
}

void write_tar_sample(const std::string& key, std::string_view row, const std::vector<PictureBytes>& pictures,
                      const std::function<void(std::string_view)>& write) {
  write_member(key + ".json", row, write);
  for (size_t i = 0; i < pictures.size(); ++i)
    write_member(pictures.size() == 1 ? key + "." + pictures[i].ending : fmt::format("{}.{}.{}", key, i, pictures[i].ending), pictures[i].bytes,
                 write);
}

uint64_t tar_sample_bytes(const std::string& key, uint64_t row, const std::vector<uint64_t>& pictures) {
  // Keys are short: a header is one block.
  uint64_t bytes = tar_header(key, 0).size() + row + tar_padding(row).size();
  for (const uint64_t picture : pictures) bytes += tar_header(key, 0).size() + picture + tar_padding(picture).size();
  return bytes;
}

}  // namespace fusion
