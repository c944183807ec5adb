#include "fusion/train/wandb.h"

#include "crc.h"
#include "fusion/base/error.h"
#include "fusion/base/log.h"
#include "fusion/config/schema.h"
#include "fusion/train/figures.h"
#include "protobuf.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdlib>

namespace fusion {
namespace {

using namespace protobuf;

// Fields of Record, of which each record has one (wandb/proto/wandb_internal.proto).
enum RecordField { kHistory = 2, kSummary = 3, kRun = 17, kExit = 18, kFinal = 20, kHeader = 21 };

constexpr size_t kBlock = 32768, kHead = 7;  // of the LevelDB log format
constexpr std::string_view kMagic = ":W&B\xE1\xBE\0";
constexpr std::string_view kMagicBytes(kMagic.data(), kHead);

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

std::string variable(const char* name, const std::string& otherwise = "") {
  const char* value = std::getenv(name);
  return value && *value ? value : otherwise;
}

std::string host_name() {
  char host[256] = "host";
  ::gethostname(host, sizeof host - 1);
  return host;
}

/// JSON as W&B wants it: what is no number is a text that it knows.
std::string json_number(double value) {
  if (std::isnan(value)) return "\"NaN\"";
  if (std::isinf(value)) return value > 0 ? "\"Infinity\"" : "\"-Infinity\"";
  return dump_json(Json(value), -1);
}

/// An item of ConfigRecord (value is field 16), HistoryRecord or SummaryRecord: key and JSON.
std::string item(const std::string& key, const std::string& json) {
  std::string out;
  put_bytes(out, 1, key);
  put_bytes(out, 16, json);
  return out;
}

/// The pieces that carry `data` from `offset` of the file on: none crosses a block's border.
std::string frames(std::string_view data, uint64_t offset) {
  enum Kind : char { kFull = 1, kFirst, kMiddle, kLast };
  std::string out;
  for (bool first = true, done = false; !done; first = false) {
    size_t room = kBlock - (offset + out.size()) % kBlock;
    if (room < kHead) {
      out.append(room, '\0');
      room = kBlock;
    }
    const std::string_view piece = data.substr(0, room - kHead);
    data.remove_prefix(piece.size());
    done = data.empty();
    const char kind = first ? (done ? kFull : kFirst) : (done ? kLast : kMiddle);
    put(out, crc<0xEDB88320u>(std::string(1, kind).append(piece)));
    put(out, static_cast<uint16_t>(piece.size()));
    out += kind;
    out += piece;
  }
  return out;
}

Json to_json(const Node& node) {
  switch (node.kind) {
    case Node::Kind::map: {
      Json map = Json::object();
      for (const Node& child : node.children) map[child.name] = to_json(child);
      return map;
    }
    case Node::Kind::list: {
      Json list = Json::array();
      for (const Node& child : node.children) list.push_back(to_json(child));
      return list;
    }
    case Node::Kind::null:
      return nullptr;
    case Node::Kind::scalar:
      break;
  }
  if (node.quoted) return node.text;
  if (node.text == "true" || node.text == "false") return node.text == "true";
  const char *begin = node.text.data(), *last = begin + node.text.size();
  int64_t whole = 0;
  if (const auto [end, error] = std::from_chars(begin, last, whole); error == std::errc() && end == last) return whole;
  double number = 0;
  if (const auto [end, error] = std::from_chars(begin, last, number); error == std::errc() && end == last && std::isfinite(number)) return number;
  return node.text;
}

}  // namespace

Json config_json(Config config) { return to_json(Schema(config).write()); }

WandbFile::Place WandbFile::find_place(const fs::path& folder, uint64_t keep_bytes) {
  Place place;
  make_directories(folder);
  constexpr std::string_view kPrefix = "offline-run-";
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();  // offline-run-20260131_235959-abcdefgh
    tm time{};
    if (!name.starts_with(kPrefix) || name.size() != kPrefix.size() + 24) continue;
    const char* end = ::strptime(name.c_str() + kPrefix.size(), "%Y%m%d_%H%M%S", &time);
    if (!end || *end != '-') continue;
    const std::string id = name.substr(name.size() - 8);
    const fs::path file = entry.path() / ("run-" + id + ".wandb");
    if (fs::exists(file) && file > place.file) place = {file, id, ::timegm(&time), keep_bytes > 0 && fs::file_size(file) >= keep_bytes};
  }
  if (place.file.empty()) {
    const auto start = static_cast<time_t>(now());
    tm time{};
    ::gmtime_r(&start, &time);
    char stamp[32];
    ::strftime(stamp, sizeof stamp, "%Y%m%d_%H%M%S", &time);
    place.id = sha256_text(fmt::format("{} {} {}", now(), host_name(), ::getpid())).substr(0, 8);
    place.start = start;
    const fs::path run = folder / fmt::format("{}{}-{}", kPrefix, stamp, place.id);
    make_directories(run);
    place.file = run / ("run-" + place.id + ".wandb");
  }
  if (keep_bytes > 0 && !place.known) log::warn("wandb: {} does not hold the points up to the checkpoint; it begins anew", place.file.string());
  return place;
}

WandbFile::WandbFile(const fs::path& folder, Options options)
    : options_(std::move(options)),
      place_(find_place(folder, options_.keep_bytes)),
      offset_(place_.known ? options_.keep_bytes : 0),
      file_(place_.file, static_cast<int64_t>(offset_), /*lines=*/false) {
  if (!place_.known) begin_run();
}

void WandbFile::add(const std::string& record) {
  const std::string bytes = frames(record, offset_);
  offset_ += bytes.size();
  file_.append_bytes(bytes);
}

void WandbFile::begin_run() {
  file_.append_bytes(kMagicBytes);
  offset_ = kMagicBytes.size();

  std::string version, info, header;
  put_bytes(version, 1, "fusion");  // VersionInfo: 1 producer
  put_bytes(info, 1, version);
  put_bytes(header, kHeader, info);
  add(header);

  std::string config;
  for (const auto& [section, value] : options_.config.items()) put_bytes(config, 1, item(section, dump_json(value, -1)));
  std::string time;
  put_int(time, 1, place_.start);
  const std::string stage = options_.stage.empty() ? "" : "-" + options_.stage;
  std::string run;  // RunRecord
  put_bytes(run, 1, place_.id);
  if (const auto entity = variable("WANDB_ENTITY"); !entity.empty()) put_bytes(run, 2, entity);
  put_bytes(run, 3, variable("WANDB_PROJECT", "fusion"));
  put_bytes(run, 4, config);
  put_bytes(run, 6, variable("WANDB_RUN_GROUP", options_.run));
  put_bytes(run, 7, options_.stage.empty() ? "train" : options_.stage);
  put_bytes(run, 8, variable("WANDB_NAME", options_.run + stage));
  if (const auto notes = variable("WANDB_NOTES"); !notes.empty()) put_bytes(run, 9, notes);
  const std::string tags = variable("WANDB_TAGS");
  for (size_t begin = 0, end; begin < tags.size(); begin = end + 1) {
    end = std::min(tags.find(',', begin), tags.size());
    if (end > begin) put_bytes(run, 10, std::string_view(tags).substr(begin, end - begin));
  }
  put_bytes(run, 13, host_name());
  put_bytes(run, 17, time);
  std::string record;
  put_bytes(record, kRun, run);
  add(record);
}

void WandbFile::after_step(const TrainState& state, const StepReport& report) {
  write_row();
  row_step_ = state.step;
  row_ = step_figures(report, options_.rates, options_.device);
}

void WandbFile::after_evaluation(const TrainState& state, const Json& figures) {
  if (state.step != row_step_) write_row();
  row_step_ = state.step;
  for (const auto& figure : evaluation_figures(figures)) row_.push_back(figure);
}

void WandbFile::write_row() {
  if (row_.empty()) return;
  row_.emplace_back("_step", static_cast<double>(row_step_));
  row_.emplace_back("_timestamp", now());
  row_.emplace_back("_runtime", now() - static_cast<double>(place_.start));
  std::string history;
  for (const auto& [name, value] : row_) {
    const std::string json = name == "_step" ? std::to_string(row_step_) : json_number(value);
    put_bytes(history, 1, item(name, json));
    summary_[name] = json;
  }
  std::string step;
  put_int(step, 1, row_step_);
  put_bytes(history, 2, step);
  std::string record;
  put_bytes(record, kHistory, history);
  add(record);
  row_.clear();
}

uint64_t WandbFile::sync() {
  write_row();
  file_.sync();
  return offset_;
}

void WandbFile::finish() {
  write_row();
  std::string updates, summary, exit, record;
  for (const auto& [name, json] : summary_) put_bytes(updates, 1, item(name, json));
  put_bytes(summary, kSummary, updates);
  add(summary);
  put_int(exit, 2, static_cast<int64_t>(now()) - place_.start);  // RunExitRecord: 1 exit_code is 0, 2 runtime
  put_bytes(record, kExit, exit);
  add(record);
  record.clear();
  put_bytes(record, kFinal, "");
  add(record);
  file_.sync();
}

}  // namespace fusion
