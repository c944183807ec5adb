#include "fusion/data/convert_rows.h"

#include "fusion/base/error.h"
#include "fusion/base/progress.h"
#include "fusion/data/annotation.h"
#include "fusion/data/prepare.h"
#include "fusion/data/source_files.h"
#include "fusion/data/tar.h"

#include "row_style.h"
#include "tar_sample.h"

#include <algorithm>

namespace fusion {
namespace {

/// Whether a name stays inside the folder that it is joined to.
bool is_inside(const fs::path& name) {
  return !name.empty() && name.is_relative() && name.has_filename() &&
         std::none_of(name.begin(), name.end(), [](const fs::path& part) { return part == ".." || part == "."; }) &&
         name.string().find('\0') == std::string::npos;
}

/// Writes rows in their container.
class Output {
 public:
  Output(const fs::path& path, RowStyle style) : file_(path), tar_(style == RowStyle::tar), array_(!tar_ && path.extension() == ".json") {}

  void add(const std::string& row) {
    if (array_) file_.write(rows_ == 0 ? "[\n" : ",\n");
    file_.write(row);
    if (!array_) file_.write("\n");
    ++rows_;
  }

  void add(const std::string& key, const std::string& row, const std::vector<PictureBytes>& pictures) {
    write_tar_sample(key, row, pictures, [&](std::string_view bytes) { file_.write(bytes); });
    ++rows_;
  }

  void close() {
    if (array_) file_.write(rows_ == 0 ? "[]\n" : "\n]\n");
    if (tar_) file_.write(tar_end());
    file_.commit();
  }

 private:
  AtomicFile file_;
  bool tar_, array_;
  int64_t rows_ = 0;
};

class Converter {
 public:
  Converter(const fs::path& from, const fs::path& to, RowStyle style, const fs::path& image_folder)
      : from_(from, RowIndex::kKeptBytes),
        folder_(to.has_parent_path() ? to.parent_path() : fs::path(".")),
        style_(style),
        image_folder_(image_folder.empty() ? from.parent_path() : image_folder) {}

  int64_t size() const { return from_.size(); }
  std::string where(int64_t index) const { return from_.where(index); }

  void convert(int64_t index, Output& output) const {
    std::string text = from_.row(index);
    StyledRow row = read_styled(text);
    if (text.find('\n') != std::string::npos) row.llava = false;  // its bytes do not fit a line
    std::vector<StoredPicture> pictures = open_pictures(index, row);
    if (style_ == RowStyle::tar) {
      std::vector<PictureBytes> members;
      for (size_t i = 0; i < pictures.size(); ++i)
        members.push_back({picture_ending(row.images[i]), {reinterpret_cast<const char*>(pictures[i].bytes.data()), pictures[i].bytes.size()}});
      output.add(fmt::format("{:09}", index), text_of(row, text), members);
      return;
    }
    for (size_t i = 0; i < pictures.size(); ++i) extract(index, i, row, pictures[i]);
    output.add(text_of(row, text));
  }

 private:
  std::string text_of(const StyledRow& row, const std::string& text) const {
    const bool llava = style_ != RowStyle::messages && style_ != RowStyle::sharegpt;
    return llava && row.llava && !row.changed ? text : write_styled(row, style_);
  }

  /// Whether a picture is called as the MDS column that it stands in, as those of all rows are: no member of a tar is without a dot.
  static bool is_column(const NamedPicture& picture, const std::string& name) { return picture.name == name && name.find('.') == std::string::npos; }

  static std::string made_name(int64_t index, size_t place, const std::string& name) {
    return fmt::format("{:09}.{}.{}", index, place, picture_ending(name));
  }

  /// Those of a shard, and for a tar those of files.
  std::vector<StoredPicture> open_pictures(int64_t index, StyledRow& row) const {
    std::vector<StoredPicture> pictures;
    if (from_.shards()) {
      if (row.images.empty() && !row.says_images)
        if (auto only = from_.picture(index, "", 0, 0)) {
          row.images = {fs::path(only->name).filename().string()};
          row.changed = true;
          if (is_column(*only, row.images.front())) row.images.front() = made_name(index, 0, only->name);
          return {only->stored};
        }
      for (size_t i = 0; i < row.images.size(); ++i) {
        const auto picture = from_.picture(index, row.images[i], i, row.images.size());
        pictures.push_back(picture->stored);
        if (!is_column(*picture, row.images[i])) continue;
        row.images[i] = made_name(index, i, picture->name);
        row.changed = true;
      }
    } else if (style_ == RowStyle::tar) {
      for (const std::string& image : row.images) {
        Sample sample;
        sample.image = (image_folder_ / image).string();
        try {
          pictures.push_back(open_picture(sample));
        } catch (const Error& error) {
          fail(ExitCode::data, "image: {}", error.what());
        }
      }
    }
    return pictures;
  }

  /// Writes a shard's picture as a file; one that is there must be the same.
  void extract(int64_t index, size_t place, StyledRow& row, const StoredPicture& picture) const {
    std::string& name = row.images[place];
    if (!is_inside(name)) {
      name = made_name(index, place, name);
      row.changed = true;
    }
    const fs::path file = folder_ / name;
    const std::string_view bytes(reinterpret_cast<const char*>(picture.bytes.data()), picture.bytes.size());
    std::error_code ignored;
    if (fs::exists(file, ignored)) {
      if (MappedFile(file).text() != bytes) fail(ExitCode::data, "image: {} is there already with another content", file.string());
      return;
    }
    make_directories(file.parent_path());
    write_file(file, bytes, Sync::no);
  }

  AnnotationFile from_;
  fs::path folder_;
  RowStyle style_;
  fs::path image_folder_;
};

}  // namespace

ConvertReport convert_rows(const fs::path& from, const fs::path& to, RowStyle style, const fs::path& image_folder) {
  const std::string ending = to.extension().string();
  const bool fits = style == RowStyle::json    ? ending == ".json"
                    : style == RowStyle::jsonl ? ending == ".jsonl"
                    : style == RowStyle::tar   ? ending == ".tar"
                                               : ending == ".json" || ending == ".jsonl";
  FUSION_CHECK(fits, "data: {}: a file of the style {} ends in {}", to.string(), enum_name(style),
               style == RowStyle::messages || style == RowStyle::sharegpt ? ".json or .jsonl" : "." + enum_name(style));
  for (const SourceFile& file : source_files(from)) {
    std::error_code ignored;
    FUSION_CHECK(!fs::equivalent(file.path, to, ignored), "data: {} would be written over what it is made from", to.string());
  }
  const Converter converter(from, to, style, image_folder);
  if (to.has_parent_path()) make_directories(to.parent_path());
  Output output(to, style);
  ConvertReport report;
  Progress progress("convert", "rows", converter.size());
  for (int64_t i = 0; i < converter.size(); ++i) {
    progress.update(i);
    try {
      converter.convert(i, output);
      ++report.rows;
    } catch (const Error& error) {
      if (error.code() != ExitCode::data) throw;
      report.refused.push_back({converter.where(i), error.what()});
    }
  }
  output.close();
  return report;
}

}  // namespace fusion
