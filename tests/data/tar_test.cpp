// Archives as they are written by us, and as nobody should write them: each refused with its byte, or bounded.
#include "fusion/data/tar.h"

#include "errors.h"
#include "fusion/base/error.h"
#include "fusion/data/annotation.h"
#include "temp_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace fusion {
namespace {

using test::TempFolder;

std::string member(const std::string& name, const std::string& content) {
  return tar_header(name, content.size()) + content + std::string(tar_padding(content.size()));
}

std::string archive(const std::vector<std::string>& members) {
  std::string text;
  for (const std::string& one : members) text += one;
  return text + std::string(tar_end());
}

/// Sets the checksum of the header block at `at` anew.
void sign(std::string& text, size_t at = 0) {
  text.replace(at + 148, 8, "        ");
  uint64_t sum = 0;
  for (size_t i = 0; i < 512; ++i) sum += static_cast<unsigned char>(text[at + i]);
  text.replace(at + 148, 8, fmt::format("{:06o}", sum) + std::string("\0 ", 2));
}

std::string pax(const std::string& records, char type = 'x') {
  std::string block = tar_header("pax", records.size());
  block[156] = type;
  sign(block);
  return block + records + std::string(tar_padding(records.size()));
}

/// "<its own length> <key>=<value>\n".
std::string record(const std::string& key, const std::string& value) {
  const std::string rest = " " + key + "=" + value + "\n";
  size_t length = rest.size() + 1;
  while (length != rest.size() + std::to_string(length).size()) ++length;
  return std::to_string(length) + rest;
}

std::string with_type(std::string text, char type, size_t at = 0) {
  text[at + 156] = type;
  sign(text, at);
  return text;
}

std::map<std::string, std::string> members_of(const std::string& text) {
  std::map<std::string, std::string> out;
  TarReader reader("t.tar", text);
  while (const auto one = reader.next()) out[one->name] = one->data;
  return out;
}

TEST(Tar, ReadsWhatItWrites) {
  const std::string long_name = std::string(90, 'f') + "/" + std::string(200, 'n') + ".json";
  const std::map<std::string, std::string> members = {{"a.json", "{}"},
                                                      {"d/e.png", std::string(512, 'x')},
                                                      {"empty.txt", ""},
                                                      {long_name, "content"},
                                                      {std::string(100, 'h'), std::string(513, 'y')}};
  std::vector<std::string> parts;
  for (const auto& [name, content] : members) parts.push_back(member(name, content));
  EXPECT_EQ(members_of(archive(parts)), members);
  EXPECT_EQ(members_of(archive({})).size(), 0u);
}

TEST(Tar, ReadsOtherWriters) {
  // GNU: a long name in front; its magic says that there is no prefix.
  std::string gnu = with_type(member("././@LongLink", "dir/long.json" + std::string(1, '\0')), 'L') + member("short", "x");
  EXPECT_EQ(members_of(archive({gnu})), (std::map<std::string, std::string>{{"dir/long.json", "x"}}));
  std::string old = member("f.json", "x");
  old.replace(257, 8, std::string_view("ustar  \0", 8));
  old.replace(345, 3, "abc");
  sign(old);
  EXPECT_EQ(members_of(archive({old})), (std::map<std::string, std::string>{{"f.json", "x"}}));
  // ustar's prefix, a name that fills its field, "./", a folder, numbers in GNU's binary form, harmless pax records.
  std::string prefixed = member("f.json", "x");
  prefixed.replace(345, 3, "abc");
  sign(prefixed);
  std::string binary = member("./b.json", "xy");
  binary.replace(124, 12, std::string("\x80\0\0\0\0\0\0\0\0\0\0\x02", 12));
  sign(binary);
  const std::string folder = with_type(member("./d/", ""), '5');
  EXPECT_EQ(members_of(archive({pax(record("comment", "hello"), 'g'), folder, prefixed, pax(record("mtime", "1.23456789")), binary, folder})),
            (std::map<std::string, std::string>{{"abc/f.json", "x"}, {"b.json", "xy"}}));
  // A size in pax counts.
  std::string sized = member("s.json", "abc");
  sized.replace(124, 11, "00000000000");
  sign(sized);
  EXPECT_EQ(members_of(archive({pax(record("size", "3")), sized})), (std::map<std::string, std::string>{{"s.json", "abc"}}));
}

TEST(Tar, RefusesByPlace) {
  const auto refused = [](const std::string& text, const std::string& why) { EXPECT_FAILS(members_of(text), ExitCode::data, why); };
  const std::string good = member("a.json", "{}");
  refused(archive({good, with_type(member("link", ""), '1')}), "t.tar: byte 1024: member 'link': a hard link");
  refused(archive({with_type(member("link", ""), '2')}), "a symbolic link");
  refused(archive({with_type(member("././@LongLink", "target"), 'K'), good}), "a symbolic link");
  refused(archive({with_type(member("dev", ""), '3')}), "a device");
  refused(archive({with_type(member("dev", ""), '4')}), "a device");
  refused(archive({with_type(member("pipe", ""), '6')}), "a pipe");
  refused(archive({with_type(member("hole", ""), 'S')}), "a sparse file");
  refused(archive({with_type(member("what", ""), 'V')}), "type 'V'");
  refused(archive({pax(record("GNU.sparse.major", "1")), good}), "a sparse file");
  refused(archive({pax(record("linkpath", "/etc/passwd")), good}), "it is a link");
  refused(archive({pax(record("path", "a.json"), 'g'), good}), "a global pax header sets 'path'");
  for (const char* name : {"../a.json", "b/../../a.json", "a/.."}) refused(archive({member(name, "x")}), "leads out of the folder");
  refused(archive({pax(record("path", "../a.json")), good}), "leads out of the folder");
  refused(archive({member("/etc/passwd", "x")}), "absolute");
  refused(archive({pax(record("path", std::string("a\0b", 3))), good}), "zero byte");
  refused(archive({pax(record("path", "")), member("", "x")}), "no name");
  refused(archive({member(std::string(5000, 'n'), "x")}), "longer than 4096");
  refused(archive({pax(std::string(70000, 'x')), good}), "a header of 70000 bytes");
  for (const char* records : {"9999 path=a\n", "3 a\n", "x path=a\n", "9 path=a", "11 path=abc", "99999999999999999999999 path=a\n", "7 patha\n"})
    refused(archive({pax(records), good}), "pax header is damaged");
  refused(archive({pax(record("size", "-1")), good}), "is no number");
  refused(archive({pax(record("size", "18446744073709551615")), good}), "bytes are said to follow");
  refused(archive({good, pax(record("mtime", "1"))}), "a header for a member that does not follow");
  refused(archive({with_type(member("d/", "x"), '5')}), "a folder with content");
  for (const auto& size : {"77777777777", "00000004001"}) {
    std::string lie = good;
    lie.replace(124, 11, size);
    sign(lie);
    refused(archive({lie}), "bytes are said to follow");
  }
  for (const std::string& size : {std::string("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"), std::string("\x80\0\0\0\xFF\0\0\0\0\0\0\1", 12),
                                  std::string("1234x678901\0", 12), std::string("\0\0\0\0\0\0\0\0\0\0\0\0", 12), std::string("-0000000001\0", 12)}) {
    std::string lie = good;
    lie.replace(124, 12, size);
    sign(lie);
    refused(archive({lie}), "its size is no number");
  }
  std::string v7 = good;
  v7.replace(257, 8, std::string(8, '\0'));
  sign(v7);
  refused(archive({v7}), "no tar header");
  refused(good, "byte 1024: the archive ends without its end mark");
  refused(good + std::string(512, '\0'), "a lone block of zeros");
  refused(archive({good}) + member("late.json", "x"), "text behind the end mark");
  refused("", "byte 0: the archive ends without its end mark");
  for (const auto& [magic, kind] : std::map<std::string, std::string>{{"\x1F\x8B\x08", "gzip"},
                                                                      {"\x28\xB5\x2F\xFD", "zstd"},
                                                                      {"\xFD"
                                                                       "7zXZ",
                                                                       "xz"},
                                                                      {"BZh9", "bzip2"},
                                                                      {"PK\x03\x04", "zip"}})
    refused(magic + std::string(2000, 'x'), "a " + kind + " archive; members are read by position");
}

TEST(Tar, RefusesEveryCutAndEveryFlippedBitOfAHeader) {
  const std::string whole = archive({member("a.json", "{}"), pax(record("path", "b/c.json")), member("x", std::string(600, 'x'))});
  const auto expected = members_of(whole);
  ASSERT_EQ(expected.size(), 2u);
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) EXPECT_THROW(members_of(whole.substr(0, bytes)), Error) << bytes;
  for (const size_t header : {0, 1024, 2048})
    for (size_t byte = 0; byte < 512; ++byte)
      for (int bit = 0; bit < 8; ++bit) {
        std::string damaged = whole;
        damaged[header + byte] = static_cast<char>(damaged[header + byte] ^ (1 << bit));
        try {  // only blanks for zeros in the sum's own field say nothing
          EXPECT_EQ(members_of(damaged), expected) << header << "+" << byte << "." << bit;
          EXPECT_TRUE(byte >= 148 && byte < 156 && (damaged[header + byte] == ' ' || damaged[header + byte] == '\0'))
              << header << "+" << byte << "." << bit;
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ExitCode::data);
        }
      }
  // With a right checksum any byte may be wrong: what is read stays inside the archive.
  for (const size_t header : {0, 1024, 2048})
    for (size_t byte = 0; byte < 512; ++byte)
      for (const int value : {0, 1, 0x2F, 0x2E, 0x37, 0x80, 0xFF}) {
        std::string hostile = whole;
        hostile[header + byte] = static_cast<char>(value);
        sign(hostile, header);
        try {
          for (const auto& [name, data] : members_of(hostile)) EXPECT_LE(data.size(), hostile.size());
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ExitCode::data);
        }
      }
}

TEST(Tar, TellsKeysAndFields) {
  const auto field = [](std::string_view name) {
    const auto found = tar_field(name);
    return found ? std::string(found->key) + "|" + found->field : "";
  };
  EXPECT_EQ(field("a/b.seg.PNG"), "a/b|seg.png");
  EXPECT_EQ(field("a.b/c.json"), "a.b/c|json");
  for (const char* name : {"a/b", "a/.hidden", ".x.json", "__meta.x__"}) EXPECT_EQ(field(name), "") << name;
}

TEST(Tar, BoundsManyTinyMembers) {
  const TempFolder folder;
  constexpr int64_t kMany = 1'000'000;
  {  // a million samples without anything: 8 bytes each, every one a bad row
    AtomicFile file(folder / "many.tar");
    std::string text;
    for (int64_t i = 0; i < kMany; ++i) {
      text += tar_header(fmt::format("{:07}.t", i), 0);
      if (text.size() > (1 << 20)) file.write(text), text.clear();
    }
    file.write(text);
    file.write(tar_end());
    file.commit(Sync::no);
  }
  {
    const AnnotationFile many(folder / "many.tar", UINT64_MAX);
    EXPECT_EQ(many.size(), kMany);
    EXPECT_EQ(many.modality_length(kMany - 1), -1);
    EXPECT_THROW(many.sample(kMany - 1), BadSample);
  }
  fs::remove(folder / "many.tar");
  std::vector<std::string> members = {member("k.json", "{}")};
  for (int i = 0; i < 70; ++i) members.push_back(member(fmt::format("k.{}.jpg", i), ""));
  write_file(folder / "wide.tar", archive(members), Sync::no);
  EXPECT_FAILS(AnnotationFile(folder / "wide.tar"), ExitCode::data,
               "wide.tar: byte 33280: member 'k.63.jpg': the sample 'k' has more than 64 members");
  members = {member("k.json", "{}")};
  for (int i = 0; i < 3000; ++i) members.push_back(i % 2 ? with_type(member("d/", ""), '5') : member("README", "x"));
  members.push_back(member("l.json", "{}"));
  write_file(folder / "between.tar", archive(members), Sync::no);
  EXPECT_FAILS(AnnotationFile(folder / "between.tar"), ExitCode::data, "belong to no sample follow the sample 'k'");
  write_file(folder / "twice.tar", archive({member("k.json", "{}"), member("k.JSON", "{}")}), Sync::no);
  EXPECT_FAILS(AnnotationFile(folder / "twice.tar"), ExitCode::data, "two of this kind");
}

}  // namespace
}  // namespace fusion
