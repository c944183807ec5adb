#include "fusion/study/watch.h"

#include "fusion/base/error.h"
#include "fusion/base/log.h"
#include "fusion/train/run_folder.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

namespace fusion {
namespace {

constexpr size_t kRecent = 50;      // steps that throughput and waiting are taken from
constexpr size_t kTail = 1 << 16;   // bytes of a log that are looked at
constexpr size_t kWarnings = 5;     // lines of logs
constexpr double kMuchWait = 0.2;   // of the step
constexpr double kQuietSteps = 20;  // step times without a step before that is worth a warning
constexpr double kQuietSeconds = 60;
constexpr size_t kBar = 24;

std::string clock_text(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60) : fmt::format("{}:{:02}", s / 60, s % 60);
}

double age(const fs::path& file) {
  std::error_code error;
  const auto written = fs::last_write_time(file, error);
  return error ? 0 : std::max(0.0, std::chrono::duration<double>(fs::file_time_type::clock::now() - written).count());
}

/// The last `count` values.
std::vector<double> last(const std::vector<double>& values, size_t count) {
  return {values.end() - static_cast<ptrdiff_t>(std::min(count, values.size())), values.end()};
}

double mean(const std::vector<double>& values) {
  double sum = 0, count = 0;
  for (const double value : values)
    if (std::isfinite(value)) sum += value, ++count;
  return count > 0 ? sum / count : std::numeric_limits<double>::quiet_NaN();
}

std::string number(double value) { return std::isfinite(value) ? fmt::format("{:.4g}", value) : "-"; }

/// Lines of the end of a log file.
std::vector<std::string> tail(const fs::path& file) {
  const MappedFile map(file);
  std::string_view text = map.text();
  if (text.size() > kTail) text.remove_prefix(text.size() - kTail);
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (end > begin) lines.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

std::vector<std::pair<int64_t, fs::path>> log_files(const fs::path& run) {
  std::vector<std::pair<int64_t, fs::path>> files;
  if (!fs::is_directory(run / "logs")) return files;
  for (const auto& entry : fs::directory_iterator(run / "logs")) {
    const std::string name = entry.path().filename().string();
    int64_t rank = 0;
    if (!name.starts_with("rank-") || !name.ends_with(".log")) continue;
    const auto [end, error] = std::from_chars(name.data() + 5, name.data() + name.size() - 4, rank);
    if (error == std::errc() && end == name.data() + name.size() - 4) files.emplace_back(rank, entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// Cut to `width` characters.
std::string clipped(const std::string& line, size_t width) {
  size_t characters = 0;
  for (size_t at = 0; at < line.size(); ++at)
    if ((static_cast<unsigned char>(line[at]) & 0xC0) != 0x80 && ++characters > width) return line.substr(0, at);
  return line;
}

/// The stage that goes on, or the last one that did something.
const StageView& current(const RunView& run) {
  const StageView* found = &run.stages.front();
  for (const StageView& stage : run.stages)
    if (stage.metrics.size() > 0) found = &stage;
  return *found;
}

std::string stage_line(const StageView& stage) {
  const double part = stage.steps > 0 ? std::clamp(stage.last_step() / static_cast<double>(stage.steps), 0.0, 1.0) : 0.0;
  const auto full = static_cast<size_t>(part * kBar);
  std::string line = fmt::format("{:<10} [{}{}] {:.0f}/{}", stage.name.empty() ? "run" : stage.name, std::string(full, '#'),
                                 std::string(kBar - full, '.'), stage.last_step(), stage.steps > 0 ? std::to_string(stage.steps) : "?");
  line += "  " + clock_text(stage.metrics.seconds);
  if (stage.figures)
    line += "  finished";
  else if (stage.metrics.size() > 0 && stage.steps > 0) {
    const double step = mean(last(stage.metrics.column("seconds"), kRecent));
    if (std::isfinite(step)) line += "  eta " + clock_text(step * (static_cast<double>(stage.steps) - stage.last_step()));
  }
  if (!stage.metrics.evaluations.empty())
    for (const auto& [name, value] : stage.metrics.evaluations.back().figures.items())
      if (name == "loss" || name == "exact_match")
        line += fmt::format("  held-out {} {}", name, value.is_number() ? number(value.get<double>()) : "-");
  return line;
}

void add_curves(std::vector<std::string>& lines, const StageView& stage, size_t width) {
  const size_t columns = std::min<size_t>(60, width > 34 ? width - 34 : 10);
  const auto add = [&](const char* title, const char* column) {
    const auto& values = stage.metrics.column(column);
    if (!values.empty()) lines.push_back(fmt::format("{:<14}{:>10}  {}", title, number(mean(last(values, kRecent))), sparkline(values, columns)));
  };
  add("loss", "loss"), add("cross entropy", "ce"), add("gradient norm", "grad_norm"), add("samples/s", "samples_per_second"),
      add("rows/s", "rows_per_second");
  double rate = 0;
  for (const auto& [name, values] : stage.metrics.columns)
    if (name.starts_with("lr.") && std::isfinite(values.back())) rate = std::max(rate, values.back());
  lines.push_back(fmt::format("last {} steps: highest learning rate {:.3g}, waiting for data {:.0f} %, memory {:.2f} GB",
                              std::min(kRecent, stage.metrics.size()), rate,
                              100 * mean(last(stage.metrics.column("data_wait"), kRecent)) / mean(last(stage.metrics.column("seconds"), kRecent)),
                              mean(last(stage.metrics.column("memory_bytes"), 1)) / 1e9));
}

std::string checkpoint_line(const RunView& run) {
  for (auto stage = run.stages.rbegin(); stage != run.stages.rend(); ++stage)
    for (const CheckpointInfo& checkpoint : stage->checkpoints)
      if (checkpoint.finished) {
        const fs::path folder = StageFolder{stage->folder}.checkpoints() / checkpoint.name;
        return fmt::format("checkpoint: {}{}{}, {} ago, {:.1f} MB", stage->name, stage->name.empty() ? "" : " ", checkpoint.name,
                           clock_text(age(folder / "manifest.json")), static_cast<double>(checkpoint.bytes) / 1e6);
      }
  return "checkpoint: none yet";
}

std::vector<std::string> warnings(const RunView& run, const StageView& stage, std::optional<bool> alive) {
  std::vector<std::string> out;
  const double step = mean(last(stage.metrics.column("seconds"), kRecent)), quiet = age(StageFolder{stage.folder}.metrics());
  if (!run.finished() && alive.value_or(true) && stage.metrics.size() > 0 && quiet > kQuietSeconds + kQuietSteps * step)
    out.push_back(fmt::format("no step for {}; a step takes {:.3g} s", clock_text(quiet), step));
  if (!run.finished() && alive == false) out.push_back("the process is gone and the run is not finished; the same command goes on with it");
  for (const StageView& each : run.stages) {
    const auto& updated = each.metrics.column("updated");
    if (const auto left_out = std::count(updated.begin(), updated.end(), 0.0); left_out > 0)
      out.push_back(fmt::format("{}: {} steps left out, not finite", each.name, left_out));
    for (const LedgerEntry& entry : each.ledger)
      out.push_back(fmt::format("{}: {} samples rejected ({}), as {}", each.name, entry.count, entry.kind, entry.example));
  }
  const double wait = mean(last(stage.metrics.column("data_wait"), kRecent)) / step;
  if (wait > kMuchWait) out.push_back(fmt::format("{:.0f} % of the time goes into waiting for data; more data.workers may help", 100 * wait));
  std::vector<std::string> logged;
  for (const auto& [rank, file] : log_files(run.folder))
    for (const std::string& line : tail(file))
      if (line.starts_with("warning: ") || line.starts_with("error: ")) logged.push_back(fmt::format("rank {}: {}", rank, line));
  out.insert(out.end(), logged.end() - static_cast<ptrdiff_t>(std::min(kWarnings, logged.size())), logged.end());
  return out;
}

}  // namespace

std::vector<RankView> rank_views(const fs::path& run) {
  std::vector<RankView> views;
  for (const auto& [rank, file] : log_files(run)) {
    const auto lines = tail(file);
    views.push_back({rank, age(file), lines.empty() ? "" : lines.back()});
  }
  return views;
}

std::optional<bool> process_alive(const std::string& holder) {
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  const std::string here = fmt::format("host {} pid ", host);
  int pid = 0;
  if (!holder.starts_with(here)) return std::nullopt;
  const auto [end, error] = std::from_chars(holder.data() + here.size(), holder.data() + holder.size(), pid);
  if (error != std::errc() || pid <= 0) return std::nullopt;
  return ::kill(pid, 0) == 0 || errno == EPERM;
}

std::string sparkline(const std::vector<double>& values, size_t width) {
  static constexpr const char* kBlocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const size_t columns = std::min(width, values.size());
  std::vector<double> means;
  for (size_t c = 0; c < columns; ++c)
    means.push_back(mean({values.begin() + static_cast<ptrdiff_t>(c * values.size() / columns),
                          values.begin() + static_cast<ptrdiff_t>((c + 1) * values.size() / columns)}));
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const double value : means)
    if (std::isfinite(value)) low = std::min(low, value), high = std::max(high, value);
  std::string line;
  for (const double value : means) {
    if (!std::isfinite(value))
      line += " ";
    else
      line += kBlocks[high > low ? static_cast<size_t>(std::lround(7 * (value - low) / (high - low))) : 0];
  }
  return line;
}

std::string watch_page(const RunView& run, size_t width) {
  const StageView& stage = current(run);
  const auto alive = process_alive(run.holder);
  const char* state = run.finished() ? "finished" : alive ? (*alive ? "running" : "stopped") : "unfinished";
  std::vector<std::string> lines = {fmt::format("{}: {}{}", run.name, state, run.holder.empty() || run.finished() ? "" : ", " + run.holder)};
  if (stage.metrics.size() > 0) lines.back() += fmt::format(", last step {} ago", clock_text(age(StageFolder{stage.folder}.metrics())));
  lines.emplace_back();
  for (const StageView& each : run.stages) lines.push_back(stage_line(each));
  if (stage.metrics.size() > 0) lines.emplace_back(), add_curves(lines, stage, width);
  lines.push_back(checkpoint_line(run));
  if (const auto ranks = rank_views(run.folder); !ranks.empty()) {
    lines.emplace_back();
    for (const RankView& rank : ranks) lines.push_back(fmt::format("rank {:>3}  {:>8} ago  {}", rank.rank, clock_text(rank.quiet), rank.last_line));
  }
  if (const auto found = warnings(run, stage, alive); !found.empty()) {
    lines.emplace_back();
    for (const std::string& warning : found) lines.push_back("! " + warning);
  }
  std::string page;
  for (const std::string& line : lines) page += clipped(log::printable(line), width) + "\n";
  return page;
}

}  // namespace fusion
