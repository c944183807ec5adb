// A run at a glance, for a terminal: how far it is, where the loss goes, who works on it, what is wrong.
#pragma once

#include "fusion/study/run_view.h"

namespace fusion {

/// What the files of one process of a run say.
struct RankView {
  int64_t rank = 0;
  double quiet = 0;       // seconds since it last wrote a line
  std::string last_line;  // of its log
};

/// Of every logs/rank-*.log that `fusion launch` left, by rank.
std::vector<RankView> rank_views(const fs::path& run);

/// Whether the process in the run's lock is alive: yes and no are known on its own host only.
std::optional<bool> process_alive(const std::string& holder);

/// Columns of block characters, `values` from left to right; one that is not finite is a blank. At most `width` columns.
std::string sparkline(const std::vector<double>& values, size_t width);

/// The page as lines of at most `width` characters. It has no colours or control characters, whatever the run's files hold.
std::string watch_page(const RunView& run, size_t width);

}  // namespace fusion
