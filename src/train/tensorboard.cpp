#include "fusion/train/tensorboard.h"

#include "crc.h"
#include "fusion/train/figures.h"
#include "protobuf.h"

#include <unistd.h>

#include <chrono>

namespace fusion {
namespace {

using namespace protobuf;

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

// Event: 1 wall_time (double), 2 step (int64), then one of 3 file_version, 5 summary, 7 session_log.
std::string event(int64_t step, int field, std::string_view content) {
  std::string out;
  put_double(out, 1, now());
  if (step != 0) put_int(out, 2, step);
  put_bytes(out, field, content);
  return out;
}

uint32_t masked(uint32_t sum) { return ((sum >> 15) | (sum << 17)) + 0xA282EAD8u; }

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
  TensorBoard(const fs::path& folder, int64_t first_step, Figures rates, c10::Device device)
      : file_(folder, first_step), rates_(std::move(rates)), device_(device) {}

  void after_step(const TrainState& state, const StepReport& report) override { file_.scalars(state.step, step_figures(report, rates_, device_)); }
  void after_evaluation(const TrainState& state, const Json& figures) override { file_.scalars(state.step, evaluation_figures(figures)); }

 private:
  EventFile file_;
  const Figures rates_;
  const c10::Device device_;
};

}  // namespace

uint32_t crc32c(std::string_view bytes) { return crc<0x82F63B78u>(bytes); }

EventFile::EventFile(const fs::path& folder, int64_t first_step) : path_(event_path(folder)), file_(path_) {
  file_.append_bytes(record(event(0, 3, "brain.Event:2")));
  if (std::distance(fs::directory_iterator(folder), {}) == 1) return;  // no earlier file
  // SessionLog: 1 status = START (1)
  std::string start;
  put_int(start, 1, 1);
  file_.append_bytes(record(event(first_step + 1, 7, start)));  // points from this step on come from this file
}

void EventFile::scalars(int64_t step, const Figures& values) {
  std::string summary;
  for (const auto& [tag, value] : values) {  // Summary: 1 value {1 tag, 2 simple_value (float)}
    std::string one;
    put_bytes(one, 1, tag);
    put_float(one, 2, static_cast<float>(value));
    put_bytes(summary, 1, one);
  }
  file_.append_bytes(record(event(step, 5, summary)));
}

std::unique_ptr<Observer> make_tensorboard(const fs::path& folder, int64_t first_step, Figures rates, c10::Device device) {
  return std::make_unique<TensorBoard>(folder, first_step, std::move(rates), device);
}

}  // namespace fusion
