// Event files as a reader of their format sees them, and the text for Prometheus.
#include "errors.h"
#include "fusion/train/prometheus.h"
#include "fusion/train/tensorboard.h"
#include "temp_folder.h"

#include <cstring>
#include <regex>

namespace fusion {
namespace {

using testing::HasSubstr;

template <class T>
T number_at(const std::string& bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

/// The records of a file; checks both checksums of each by their definition.
std::vector<std::string> records(const fs::path& file) {
  const auto masked = [](const std::string& bytes) {
    const uint32_t crc = crc32c(bytes);
    return static_cast<uint32_t>((crc >> 15 | crc << 17) + 0xA282EAD8u);
  };
  const std::string bytes = read_file(file);
  std::vector<std::string> all;
  for (size_t at = 0; at < bytes.size();) {
    const auto length = number_at<uint64_t>(bytes, at);
    EXPECT_EQ(number_at<uint32_t>(bytes, at + 8), masked(bytes.substr(at, 8)));
    all.push_back(bytes.substr(at + 12, length));
    EXPECT_EQ(number_at<uint32_t>(bytes, at + 12 + length), masked(all.back()));
    at += 16 + length;
  }
  return all;
}

TEST(EventFiles, Checksum) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);            // the check value of CRC-32C
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720 B.4
  EXPECT_EQ(crc32c(std::string(32, static_cast<char>(0xFF))), 0x62A8AB43u);
}

TEST(EventFiles, RecordsHoldVersionStepsAndScalars) {
  const test::TempFolder folder;
  EventFile file(folder / "tb", 0);
  file.scalars(300, {{"train/loss", 1.5}, {"lr/x", 0.25}});
  const auto all = records(file.path());
  ASSERT_EQ(all.size(), 2u);
  EXPECT_THAT(all[0], testing::EndsWith(std::string("\x1a\x0d") + "brain.Event:2"));
  // step 300 = varint AC 02; summary {value {tag, simple_value}} twice
  EXPECT_EQ(all[1].substr(9), std::string("\x10\xAC\x02\x2A\x20", 5) + std::string("\x0A\x11\x0A\x0A", 4) + "train/loss" +
                                  std::string("\x15\x00\x00\xC0\x3F", 5) + std::string("\x0A\x0B\x0A\x04", 4) + "lr/x" +
                                  std::string("\x15\x00\x00\x80\x3E", 5));

  const EventFile resumed(folder / "tb", 300);  // a second file, which says from where it counts
  EXPECT_NE(resumed.path(), file.path());
  const auto again = records(resumed.path());
  ASSERT_EQ(again.size(), 2u);
  EXPECT_EQ(again[1].substr(9), std::string("\x10\xAD\x02\x3A\x02\x08\x01", 7));
  // Killed before its first checkpoint: nothing of the earlier files counts.
  EventFile anew(folder / "tb", 0);
  const auto first = records(anew.path());
  ASSERT_EQ(first.size(), 2u);
  EXPECT_EQ(first[1].substr(9), std::string("\x10\x01\x3A\x02\x08\x01", 6));
}

TEST(PrometheusText, IsOfItsFormat) {
  const test::TempFolder folder;
  const auto observer = make_prometheus(folder / "metrics.prom", nullptr, {{"decoder \"x\"", 2.0}}, c10::kCPU);
  TrainState state;
  state.step = 3, state.tokens = 40;
  StepReport report;
  report.loss = 1.5, report.seconds = 0.3, report.data_wait = 0.1, report.lr_factor = 0.5;
  report.grad_norms = {{"decoder", 0.5}}, report.source_ce = {{"a \"b\"", 2.5}}, report.query_lens = {4, 16}, report.mfu = 0.25;
  report.grad_norm = std::numeric_limits<double>::quiet_NaN();
  observer->after_step(state, report);
  observer->after_step(state, report);
  observer->after_evaluation(state, {{"exact_match", 0.25}});
  const std::string text = read_file(folder / "metrics.prom");
  const std::regex good("# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\\{[a-z]+=\"([^\"\\\\]|\\\\.)*\"\\})? (NaN|[-+0-9.e]+)");
  size_t begin = 0;
  for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
    EXPECT_TRUE(std::regex_match(text.substr(begin, end - begin), good)) << text.substr(begin, end - begin);
  EXPECT_EQ(begin, text.size());
  for (const char* line :
       {"fusion_train_tokens_total 40\n", "fusion_loss{part=\"total\"} 1.5\n", "fusion_step_duration_seconds_bucket{le=\"0.25\"} 0\n",
        "fusion_step_duration_seconds_bucket{le=\"0.5\"} 2\n", "fusion_step_duration_seconds_count 2\n", "fusion_gradient_norm NaN\n",
        "fusion_part_gradient_norm{part=\"decoder\"} 0.5\n", "fusion_source_cross_entropy{source=\"a \\\"b\\\"\"} 2.5\n", "fusion_query_length 10\n",
        "fusion_mfu_ratio 0.25\n", "fusion_learning_rate{part=\"decoder \\\"x\\\"\"} 1\n", "fusion_evaluation{figure=\"exact_match\"} 0.25\n"})
    EXPECT_THAT(text, HasSubstr(line));
}

}  // namespace
}  // namespace fusion
