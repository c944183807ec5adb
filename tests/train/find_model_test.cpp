#include "fusion/train/find_model.h"

#include "errors.h"
#include "fusion/train/checkpoint.h"
#include "temp_folder.h"

#include <ATen/ops/full.h>

namespace fusion {
namespace {

using test::TempFolder;
using testing::ElementsAre;

void put(const fs::path& file) {
  make_directories(file.parent_path());
  write_file(file, "{}\n");
}

void save(const fs::path& checkpoints, int64_t step) {
  make_directories(checkpoints);
  CheckpointContent content;
  content.model = {{"w", at::full({1}, 1.0, at::kFloat)}};
  content.state = Json::object();
  save_checkpoint(checkpoints, step, content, {});
}

TEST(FindModel, AModelFolderIsItself) {
  TempFolder folder;
  put(folder / "config.json");
  EXPECT_EQ(find_model_folder(folder.path()), folder.path());
}

TEST(FindModel, ExportBeforeCheckpoint) {
  TempFolder folder;
  save(folder / "checkpoints", 1);
  save(folder / "checkpoints", 2);
  EXPECT_EQ(find_model_folder(folder.path()), folder / "checkpoints/step-00000002");
  put(folder / "export/config.json");
  EXPECT_EQ(find_model_folder(folder.path()), folder / "export");
}

TEST(FindModel, LastStageThatHasSomething) {
  TempFolder folder;
  write_file(folder / "resolved.yaml", "stages:\n- {name: z}\n- {name: b}\n- {name: a}\n");
  EXPECT_FAILS(find_model_folder(folder.path()), ExitCode::usage, "nor a run with an export or a checkpoint");
  put(folder / "z/export/config.json");
  EXPECT_EQ(find_model_folder(folder.path()), folder / "z/export");
  save(folder / "b/checkpoints", 3);
  EXPECT_EQ(find_model_folder(folder.path()), folder / "b/checkpoints/step-00000003");
  make_directories(folder / "a/checkpoints");
  EXPECT_EQ(find_model_folder(folder.path()), folder / "b/checkpoints/step-00000003");
  EXPECT_THAT(find_checkpoint_folders(folder.path()), ElementsAre(folder / "b/checkpoints", folder / "a/checkpoints"));
  EXPECT_THAT(find_checkpoint_folders(folder / "b"), ElementsAre(folder / "b/checkpoints"));
  EXPECT_THAT(find_checkpoint_folders(folder / "b/checkpoints"), ElementsAre(folder / "b/checkpoints"));
  EXPECT_FAILS(find_checkpoint_folders(folder / "z"), ExitCode::usage, "neither a run");
}

TEST(FindModel, DamagedCheckpointsAreNoModel) {
  TempFolder folder;
  save(folder / "checkpoints", 1);
  write_file(folder / "checkpoints/step-00000001/state.json", "[]");
  EXPECT_FAILS(find_model_folder(folder.path()), ExitCode::checkpoint, "state.json");
}

}  // namespace
}  // namespace fusion
