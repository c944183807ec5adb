// A run folder written by hand: two stages, the second one under way.
#pragma once

#include "fusion/base/file.h"
#include "fusion/base/json.h"
#include "fusion/config/config.h"
#include "temp_folder.h"

namespace fusion::test {

struct HandMadeRun {
  TempFolder temp;
  fs::path folder;

  /// `overrides` on top of the tiny model's config.
  explicit HandMadeRun(const std::string& name, const std::vector<std::string>& overrides = {}) : folder(temp.path() / name) {
    make_directories(folder / "one");
    make_directories(folder / "two");
    write_file(temp.path() / "run.yaml", "stages:\n- {name: one, optimizer: {lr: 0.5}}\n- {name: two}\n");
    const Recipe recipe =
        load_recipe({std::string(FUSION_SOURCE_DIR) + "/configs/model/tiny.yaml", (temp.path() / "run.yaml").string()}, overrides, Missing::keep);
    write_file(folder / "resolved.yaml", recipe.text);
    write_file(folder / "origin.yaml", print_recipe(recipe, PrintStyle::origin));
    write_file(folder / "manifest.json", R"({"fusion": "0.1.0", "runtime": {"threads": "2", "libtorch": "2.11.0"}, "environment": {}})");
    for (int64_t step = 1; step <= 4; ++step) add_step("one", step, 4, 10.0 / static_cast<double>(step));
    append("one/metrics.jsonl", R"({"step": 4, "evaluation": {"loss": 1.5, "exact_match": 0.25, "samples": 8}})");
    append("one/finished.json", R"({"steps": 4, "samples": 32, "tokens": 9, "evaluation": {}})");
    for (int64_t step = 1; step <= 3; ++step) add_step("two", step, 10, 2.0);
  }

  void append(const std::string& file, const std::string& line, bool whole = true) const {
    const std::string before = fs::exists(folder / file) ? read_file(folder / file) : "";
    write_file(folder / file, before + line + (whole ? "\n" : ""));
  }
  static std::string step_line(int64_t step, int64_t steps, double loss) {
    return dump_json({{"step", step},
                      {"steps", steps},
                      {"loss", loss},
                      {"ce", loss},
                      {"updated", true},
                      {"samples", 8},
                      {"seconds", 2.0},
                      {"data_wait", 0.1},
                      {"samples_per_second", 4.0},
                      {"memory_bytes", 1000000},
                      {"mfu", 0.25},
                      {step < 3 ? "ce.captions" : "ce.answers", loss},
                      {"grad_norm.decoder", 2 * loss},
                      {"grad_norm.head", 3 * loss},
                      {"lr", {{"decoder", 0.5}, {"head", 0.5}, {"vision_tower", 0.25}}}},
                     -1);
  }
  void add_step(const std::string& stage, int64_t step, int64_t steps, double loss) const {
    append(stage + "/metrics.jsonl", step_line(step, steps, loss));
  }
};

}  // namespace fusion::test
