// The index of an annotation file: its rows and lengths against a plain parse, kept and found again, made anew when the file or the index changed.
#include "fusion/data/row_index.h"

#include "fusion/base/json.h"
#include "fusion/base/random.h"
#include "fusion/data/annotation.h"
#include "temp_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sstream>

namespace fusion {
namespace {

using test::TempFolder;

Json random_row(RandomStream& draw, size_t words) {
  Json row = {{"id", std::to_string(draw.below(1000))}, {"conversations", Json::array()}};
  if (draw.below(2)) row["image"] = "p/x.png";
  std::string text;
  for (size_t i = 0; i < words; ++i) text += (i % 7 ? " " : "\n") + std::string(1 + draw.below(9), static_cast<char>('a' + draw.below(26)));
  row["conversations"].push_back({{"from", "human"}, {"value", "<image>\nbrackets ]}\", \\ and \u00E9 " + text}});
  row["conversations"].push_back({{"from", "gpt"}, {"value", text}});
  return row;
}

int32_t plain_length(const Json& row) {
  int32_t words = 0;
  for (const Json& turn : row["conversations"]) {
    std::istringstream text(turn["value"].get<std::string>());
    for (std::string word; text >> word;) ++words;
  }
  return row.contains("image") ? words : -words;
}

/// Sets a variable of the environment for the life of the object.
class Setting {
 public:
  Setting(const char* name, const fs::path& value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    ::setenv(name, value.c_str(), 1);
  }
  ~Setting() { old_ ? ::setenv(name_, old_->c_str(), 1) : ::unsetenv(name_); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
  std::optional<std::string> old_;
};

fs::path index_of(const fs::path& file) { return file.parent_path() / ("." + file.filename().string() + ".rows"); }

class RowIndexTest : public testing::Test {
 protected:
  TempFolder folder_;
  Setting cache_{"XDG_CACHE_HOME", folder_ / "cache"};
};

// Larger than a piece of the builder and than kKeptBytes: the index is kept without being asked.
TEST_F(RowIndexTest, RowsAndLengthsOfALargeFile) {
  RandomStream draw({31});
  std::vector<Json> rows;
  std::string array = "[", lines;
  while (lines.size() < 40'000'000) {
    rows.push_back(random_row(draw, 1 + draw.below(3000)));
    const std::string text = rows.back().dump();
    array += (array.size() > 1 ? ",\n" : "") + text;
    lines += text + "\n";
  }
  for (const auto& [name, text] : {std::pair{"a.json", array + "]"}, std::pair{"a.jsonl", lines}}) {
    write_file(folder_ / name, text, Sync::no);
    for (const char* time : {"made", "found"}) {
      const AnnotationFile file(folder_ / name);
      ASSERT_EQ(file.size(), static_cast<int64_t>(rows.size())) << name << " " << time;
      for (int64_t i = 0; i < file.size(); ++i) {
        ASSERT_EQ(file.modality_length(i), plain_length(rows[static_cast<size_t>(i)])) << name << " " << time << " row " << i;
        if (i % 97 != 0 && i + 1 != file.size()) continue;
        ASSERT_EQ(parse_json(file.row(i), "row"), rows[static_cast<size_t>(i)]);
      }
      EXPECT_TRUE(fs::exists(index_of(folder_ / name)));
    }
  }
}

TEST_F(RowIndexTest, KeptUntilFileOrIndexChange) {
  const fs::path path = folder_ / "a.jsonl", index = index_of(path);
  RandomStream draw({32});
  const Json first = random_row(draw, 5), second = random_row(draw, 9);
  const auto write = [&](const std::string& text) { write_file(path, text, Sync::no); };
  const auto open = [&] { return AnnotationFile(path, 0); };
  write(first.dump() + "\n");
  const std::string hash = open().content_hash();
  const auto made = fs::last_write_time(index);
  EXPECT_EQ(open().content_hash(), hash);
  EXPECT_EQ(fs::last_write_time(index), made) << "it was made anew though nothing changed";

  write(first.dump() + "\n" + second.dump() + "\n");
  EXPECT_EQ(open().size(), 2);
  EXPECT_NE(open().content_hash(), hash);

  // Same size, same time, another block: only the sampled digest can tell.
  const auto time = fs::last_write_time(path);
  std::string text = read_file(path);
  text[text.find("brackets")] = 'B';
  write(text);
  fs::last_write_time(path, time);
  const AnnotationFile plain(path);
  EXPECT_EQ(open().content_hash(), plain.content_hash());

  std::string bytes = read_file(index);
  for (const size_t at : {size_t{0}, size_t{9}, bytes.size() / 2, bytes.size() - 3}) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    write_file(index, damaged, Sync::no);
    EXPECT_EQ(open().size(), 2) << "byte " << at;
    EXPECT_EQ(open().modality_length(1), plain_length(second)) << "byte " << at;
  }
  for (const size_t left : {size_t{0}, size_t{17}, bytes.size() - 8}) {
    write_file(index, bytes.substr(0, left), Sync::no);
    EXPECT_EQ(open().size(), 2) << left << " bytes left";
  }
}

TEST_F(RowIndexTest, GoesToTheCacheWhereTheFolderTakesNoFile) {
  const fs::path path = folder_ / "a.jsonl";
  write_file(path, "{\"conversations\": []}\n", Sync::no);
  fs::create_directories(index_of(path) / "in the way");
  EXPECT_EQ(AnnotationFile(path, 0).size(), 1);
  const auto cached = [&] {
    int count = 0;
    for (const auto& entry : fs::directory_iterator(folder_ / "cache/fusion/rows")) count += entry.path().extension() == ".rows";
    return count;
  };
  EXPECT_EQ(cached(), 1);
  EXPECT_EQ(AnnotationFile(path, 0).size(), 1);
  EXPECT_EQ(cached(), 1);
}

TEST_F(RowIndexTest, ProcessesShareIt) {
  RandomStream draw({33});
  std::string lines;
  std::vector<int32_t> lengths;
  for (int i = 0; i < 2000; ++i) {
    const Json row = random_row(draw, draw.below(50));
    lengths.push_back(plain_length(row));
    lines += row.dump() + "\n";
  }
  write_file(folder_ / "a.jsonl", lines, Sync::no);
  std::vector<pid_t> children;
  for (int child = 0; child < 4; ++child) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      const AnnotationFile file(folder_ / "a.jsonl", 0);
      bool same = file.size() == 2000;
      for (int64_t i = 0; same && i < file.size(); ++i) same = file.modality_length(i) == lengths[static_cast<size_t>(i)];
      ::_exit(same ? 0 : 1);
    }
    children.push_back(pid);
  }
  for (const pid_t pid : children) {
    int status = -1;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
  }
}

TEST_F(RowIndexTest, NoIndexOfABrokenFile) {
  write_file(folder_ / "a.json", "[{\"conversations\": []}, {", Sync::no);
  EXPECT_THROW(AnnotationFile(folder_ / "a.json", 0), std::exception);
  EXPECT_FALSE(fs::exists(index_of(folder_ / "a.json")));
}

}  // namespace
}  // namespace fusion
