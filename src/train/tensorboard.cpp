#include "fusion/train/tensorboard.h"

#include "fusion/train/runtime.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>

namespace fusion {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

template <class T>
void put(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>(value >> (8 * i) & 0xFF);
}

// Fields of a protobuf message.
void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}
void put_key(std::string& out, int field, int wire) { put_varint(out, static_cast<uint64_t>(field << 3 | wire)); }
void put_bytes(std::string& out, int field, std::string_view bytes) {
  put_key(out, field, 2);
  put_varint(out, bytes.size());
  out += bytes;
}

// Event: 1 wall_time (double), 2 step (int64), then one of 3 file_version, 5 summary, 7 session_log.
std::string event(int64_t step, int field, std::string_view content) {
  std::string out;
  put_key(out, 1, 1);
  put(out, std::bit_cast<uint64_t>(now()));
  if (step != 0) {
    put_key(out, 2, 0);
    put_varint(out, static_cast<uint64_t>(step));
  }
  put_bytes(out, field, content);
  return out;
}

uint32_t masked(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u; }

// TFRecord: length, its checksum, data, its checksum.
std::string record(const std::string& data) {
  std::string out;
  put(out, static_cast<uint64_t>(data.size()));
  put(out, masked(crc32c(out)));
  out += data;
  put(out, masked(crc32c(data)));
  return out;
}

fs::path event_path(const fs::path& folder) {
  make_directories(folder);
  char host[256] = "host";
  ::gethostname(host, sizeof host - 1);
  for (int number = 0;; ++number) {
    const fs::path path = folder / fmt::format("events.out.tfevents.{:010}.{}.{}.{}", static_cast<int64_t>(now()), host, ::getpid(), number);
    if (!fs::exists(path)) return path;
  }
}

class TensorBoard : public Observer {
 public:
  TensorBoard(const fs::path& folder, int64_t first_step, std::vector<std::pair<std::string, double>> rates, c10::Device device)
      : file_(folder, first_step), rates_(std::move(rates)), device_(device) {}

  void after_step(const TrainState& state, const StepReport& report) override {
    std::vector<std::pair<std::string, double>> values = {{"train/loss", report.loss},
                                                          {"train/ce", report.ce},
                                                          {"train/v2t", report.v2t},
                                                          {"train/t2v", report.t2v},
                                                          {"train/grad_norm", report.grad_norm},
                                                          {"train/epoch", static_cast<double>(report.epoch)},
                                                          {"train/supervised_tokens", static_cast<double>(report.tokens)},
                                                          {"speed/seconds_per_step", report.seconds},
                                                          {"memory/bytes", static_cast<double>(memory_in_use(device_))}};
    if (!report.query_lens.empty()) values.emplace_back("train/query_len", static_cast<double>(report.query_lens.front()));
    if (report.seconds > 0) {
      values.emplace_back("speed/samples_per_second", static_cast<double>(report.samples) / report.seconds);
      values.emplace_back("speed/rows_per_second", static_cast<double>(report.rows) / report.seconds);
      values.emplace_back("speed/data_wait", report.data_wait / report.seconds);
    }
    for (const auto& [part, rate] : rates_) values.emplace_back("lr/" + part, rate * report.lr_factor);
    file_.scalars(state.step, values);
  }

  void after_evaluation(const TrainState& state, const Json& figures) override {
    std::vector<std::pair<std::string, double>> values;
    for (const auto& [name, value] : figures.items())
      if (value.is_number()) values.emplace_back("evaluation/" + name, value.get<double>());
    file_.scalars(state.step, values);
  }

 private:
  EventFile file_;
  const std::vector<std::pair<std::string, double>> rates_;
  const c10::Device device_;
};

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static const auto table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0x82F63B78u : 0);
      made[i] = value;
    }
    return made;
  }();
  uint32_t crc = ~0u;
  for (const char byte : bytes) crc = crc >> 8 ^ table[(crc ^ static_cast<uint8_t>(byte)) & 0xFF];
  return ~crc;
}

EventFile::EventFile(const fs::path& folder, int64_t first_step) : path_(event_path(folder)), file_(path_) {
  file_.append_bytes(record(event(0, 3, "brain.Event:2")));
  if (first_step == 0) return;
  std::string start;  // SessionLog: 1 status = START (1)
  put_key(start, 1, 0);
  put_varint(start, 1);
  file_.append_bytes(record(event(first_step + 1, 7, start)));  // points from this step on come from this file
}

void EventFile::scalars(int64_t step, const std::vector<std::pair<std::string, double>>& values) {
  std::string summary;
  for (const auto& [tag, value] : values) {  // Summary: 1 value {1 tag, 2 simple_value (float)}
    std::string one;
    put_bytes(one, 1, tag);
    put_key(one, 2, 5);
    put(one, std::bit_cast<uint32_t>(static_cast<float>(value)));
    put_bytes(summary, 1, one);
  }
  file_.append_bytes(record(event(step, 5, summary)));
}

std::unique_ptr<Observer> make_tensorboard(const fs::path& folder, int64_t first_step, std::vector<std::pair<std::string, double>> rates,
                                           c10::Device device) {
  return std::make_unique<TensorBoard>(folder, first_step, std::move(rates), device);
}

}  // namespace fusion
