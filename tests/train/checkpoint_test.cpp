#include "fusion/train/checkpoint.h"

#include "errors.h"
#include "fusion/base/random.h"
#include "temp_folder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <fstream>

namespace fusion {
namespace {

using test::TempFolder;
using testing::ElementsAre;

const Digests kDigests = {{"config", "c0"}, {"data", "d0"}, {"model", "m0"}, {"tokenizer", "t0"}};

/// A content that differs from step to step.
CheckpointContent content_of(int64_t step, int64_t size = 5) {
  CheckpointContent content;
  content.model = {{"model.norm.weight", at::arange(size, at::kFloat) + step}, {"lm_head.weight", at::full({2, 3}, step, at::kFloat)}};
  content.optimizer = {{"model.norm.weight.exp_avg", at::full({size}, 0.5 * step, at::kFloat)}};
  content.state = {{"step", step}, {"position", 7 * step}};
  content.add_files = [](const fs::path& folder) { write_file(folder / "config.json", "{}\n"); };
  return content;
}

void save(const fs::path& folder, int64_t step) { save_checkpoint(folder, step, content_of(step), kDigests); }

int64_t newest_step(const fs::path& folder) {
  const auto found = newest_checkpoint(folder, kDigests);
  return found ? found->step() : -1;
}

void put(const fs::path& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

std::vector<std::string> names(const fs::path& folder) {
  std::vector<std::string> all;
  for (const auto& entry : fs::directory_iterator(folder)) all.push_back(entry.path().filename().string());
  std::sort(all.begin(), all.end());
  return all;
}

TEST(Checkpoint, ComesBackWhole) {
  TempFolder folder;
  EXPECT_EQ(newest_step(folder / "checkpoints"), -1);
  save(folder / "checkpoints", 1000);
  save(folder / "checkpoints", 2000);
  EXPECT_THAT(names(folder / "checkpoints/step-00002000"),
              ElementsAre("config.json", "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"));
  EXPECT_EQ(read_file(folder / "checkpoints/latest"), "step-00002000\n");
  const auto found = newest_checkpoint(folder / "checkpoints", kDigests);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->step(), 2000);
  EXPECT_EQ(found->folder(), folder / "checkpoints/step-00002000");
  EXPECT_EQ(found->state(), content_of(2000).state);
  for (const TensorPart& part : content_of(2000).model) EXPECT_TRUE(at::equal(found->model().tensor(part.spec.name).view({-1}), part.elements));
  for (const TensorPart& part : content_of(2000).optimizer) EXPECT_TRUE(at::equal(found->optimizer(part.spec.name).view({-1}), part.elements));
  EXPECT_FAILS(found->optimizer("model.norm.weight.exp_avg_sq"), ExitCode::checkpoint, "exp_avg_sq");
}

TEST(Checkpoint, StepsSortByNumber) {
  TempFolder folder;
  for (const int64_t step : {99'999'999, 100'000'000, 2}) save(folder.path(), step);
  EXPECT_EQ(newest_step(folder.path()), 100'000'000);
  fs::create_directories(folder / "step-200000000x");
  fs::create_directories(folder / "step-0000000009");
  EXPECT_EQ(list_checkpoints(folder.path()).size(), 3u);
}

TEST(Checkpoint, EveryCutAndByteIsNoticed) {
  TempFolder folder;
  save(folder.path(), 1);
  save(folder.path(), 2);
  const fs::path newer = folder / "step-00000002";
  for (const std::string& name : names(newer)) {
    const std::string whole = read_file(newer / name);
    const size_t header = name.ends_with(".safetensors") ? 8 + static_cast<unsigned char>(whole[0]) : 20;
    for (const size_t size : {size_t{0}, size_t{1}, size_t{8}, header, whole.size() / 2, whole.size() - 1}) {
      if (size >= whole.size()) continue;
      put(newer / name, std::string_view(whole).substr(0, size));
      EXPECT_THAT(verify_checkpoint(newer), testing::HasSubstr(name)) << name << " cut to " << size;
    }
    put(newer / name, whole + "x");
    EXPECT_NE(verify_checkpoint(newer), "") << name;
    std::string flipped = whole;
    for (size_t i = 0; i < whole.size(); ++i) {
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
      put(newer / name, flipped);
      EXPECT_NE(verify_checkpoint(newer), "") << name << " byte " << i;
      flipped[i] = whole[i];
    }
    EXPECT_NE(verify_checkpoint(newer), "");
    put(newer / name, std::string_view(whole).substr(0, whole.size() - 1));
    EXPECT_EQ(newest_step(folder.path()), 1) << name;
    put(newer / name, whole);
    ASSERT_EQ(verify_checkpoint(newer), "");
  }
  EXPECT_EQ(newest_step(folder.path()), 2);
}

TEST(Checkpoint, AnyBitOfTheManifestCounts) {
  TempFolder folder;
  save(folder.path(), 1);
  const fs::path manifest = folder / "step-00000001/manifest.json";
  const std::string whole = read_file(manifest);
  for (size_t bit = 0; bit < 8 * whole.size(); bit += 11) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    put(manifest, flipped);
    EXPECT_NE(verify_checkpoint(folder / "step-00000001"), "") << "bit " << bit;
  }
}

TEST(Checkpoint, MissingExtraAndForeignFiles) {
  TempFolder folder;
  save(folder.path(), 1);
  save(folder.path(), 2);
  const fs::path newer = folder / "step-00000002";
  const std::string state = read_file(newer / "state.json");
  fs::remove(newer / "state.json");
  EXPECT_EQ(verify_checkpoint(newer), "state.json: missing");
  fs::create_symlink("../step-00000001/state.json", newer / "state.json");
  EXPECT_EQ(verify_checkpoint(newer), "state.json: not a plain file");
  fs::remove(newer / "state.json");
  put(newer / "state.json", state);
  put(newer / "model-00001-of-00002.safetensors", "");
  EXPECT_EQ(verify_checkpoint(newer), "model-00001-of-00002.safetensors: not in the manifest");
  fs::remove(newer / "model-00001-of-00002.safetensors");
  ASSERT_EQ(verify_checkpoint(newer), "");
  // A file of another step, and a whole manifest of another step.
  const std::string weights = read_file(newer / "model.safetensors"), manifest = read_file(newer / "manifest.json");
  put(newer / "model.safetensors", read_file(folder / "step-00000001/model.safetensors"));
  EXPECT_THAT(verify_checkpoint(newer), testing::HasSubstr("model.safetensors: SHA-256"));
  put(newer / "model.safetensors", weights);
  put(newer / "manifest.json", read_file(folder / "step-00000001/manifest.json"));
  EXPECT_THAT(verify_checkpoint(newer), testing::HasSubstr("step 1 in a folder named step-00000002"));
  EXPECT_EQ(newest_step(folder.path()), 1);
}

TEST(Checkpoint, NoneLeftIsAnError) {
  TempFolder folder;
  save(folder.path(), 1);
  put(folder / "step-00000001/state.json", "{");
  EXPECT_FAILS(newest_checkpoint(folder.path(), kDigests), ExitCode::checkpoint, "step-00000001/state.json: 1 bytes");
  EXPECT_TRUE(prune_checkpoints(folder.path(), {1}).empty());
}

TEST(Checkpoint, OtherDigestsAreRefused) {
  TempFolder folder;
  save(folder.path(), 1);
  Digests other = kDigests;
  other["tokenizer"] = "t1";
  EXPECT_FAILS(newest_checkpoint(folder.path(), other), ExitCode::usage, "(tokenizer: there t0, here t1)");
  other = kDigests;
  other.erase("data");
  EXPECT_FAILS(newest_checkpoint(folder.path(), other), ExitCode::usage, "(data: there d0, here none)");
  EXPECT_TRUE(newest_checkpoint(folder.path()));
}

TEST(Checkpoint, LeftoversDoNotCountAndGo) {
  TempFolder folder;
  save(folder.path(), 1);
  fs::copy(folder / "step-00000001", folder / "step-00000002");
  fs::remove(folder / "step-00000002/manifest.json");
  put(folder / "step-00000002/model.safetensors.tmp-0123456789abcdef", "half");
  put(folder / "latest.tmp-0123456789abcdef", "");
  EXPECT_EQ(newest_step(folder.path()), 1);
  EXPECT_THAT(prune_checkpoints(folder.path(), {2}), ElementsAre("step-00000002", "latest.tmp-0123456789abcdef"));
  EXPECT_THAT(names(folder.path()), ElementsAre("latest", "step-00000001"));
  // A save over leftovers of its own step.
  fs::create_directories(folder / "step-00000003");
  put(folder / "step-00000003/model.safetensors", "half");
  save(folder.path(), 3);
  EXPECT_EQ(newest_step(folder.path()), 3);
}

TEST(Checkpoint, PruneKeepsMultiplesTheBestAndThePinned) {
  TempFolder folder;
  const std::map<int64_t, double> losses = {{1, 3.0}, {2, 1.0}, {3, 2.0}, {4, 1.5}, {5, 1.0}, {6, 4.0}, {7, 5.0}, {8, 6.0}};
  for (const auto& [step, loss] : losses) {
    CheckpointContent content = content_of(step);
    content.state["measured"] = {{"step", step == 2 ? 1 : step}, {"figures", {{"loss", loss}, {"exact_match", -loss}}}};  // step 2: measured before
    save_checkpoint(folder.path(), step, content, kDigests);
  }
  pin(folder / "step-00000003", true);
  std::set<std::string> verified;
  prune_checkpoints(folder.path(), {.last = 2, .every = 4, .best = KeepBest::loss}, &verified);
  EXPECT_THAT(names(folder.path()),
              ElementsAre("latest", "step-00000003", "step-00000003.pinned", "step-00000004", "step-00000005", "step-00000007", "step-00000008"));
  EXPECT_THAT(verified, ElementsAre("step-00000007", "step-00000008"));
  EXPECT_TRUE(is_pinned(folder / "step-00000003"));
  EXPECT_EQ(verify_checkpoint(folder / "step-00000003"), "");
  pin(folder / "step-00000003", false);
  prune_checkpoints(folder.path(), {.last = 1, .best = KeepBest::exact_match});
  EXPECT_THAT(names(folder.path()), ElementsAre("latest", "step-00000005", "step-00000008"));
}

TEST(Checkpoint, PruneKeepsTheLastGoodOnes) {
  TempFolder folder;
  for (int64_t step = 1; step <= 5; ++step) save(folder.path(), step);
  put(folder / "step-00000005/state.json", "");
  put(folder / "step-00000003/state.json", "");
  EXPECT_THAT(prune_checkpoints(folder.path(), {2}), ElementsAre("step-00000003", "step-00000001"));
  EXPECT_THAT(names(folder.path()), ElementsAre("latest", "step-00000002", "step-00000004", "step-00000005"));
  EXPECT_EQ(newest_step(folder.path()), 4);
  put(folder / "step-00000004/state.json", "");
  EXPECT_TRUE(prune_checkpoints(folder.path(), {2}).empty());
  EXPECT_EQ(newest_step(folder.path()), 2);
}

TEST(Checkpoint, SavingAStepAgain) {
  TempFolder folder;
  save(folder.path(), 1);
  const std::string manifest = read_file(folder / "step-00000001/manifest.json");
  save(folder.path(), 1);
  EXPECT_EQ(read_file(folder / "step-00000001/manifest.json"), manifest);
  put(folder / "step-00000001/state.json", "");
  save(folder.path(), 1);
  EXPECT_EQ(verify_checkpoint(folder / "step-00000001"), "");
  EXPECT_NE(read_file(folder / "step-00000001/manifest.json"), manifest);
}

TEST(Checkpoint, FailedSaveCleansUp) {
  TempFolder folder;
  save(folder.path(), 1);
  CheckpointContent content = content_of(2);
  content.add_files = [](const fs::path&) { fail(ExitCode::io, "no space"); };
  EXPECT_FAILS(save_checkpoint(folder.path(), 2, content, kDigests), ExitCode::io, "no space");
  EXPECT_THAT(names(folder.path()), ElementsAre("latest", "step-00000001"));
  // Files may not grow beyond 64 KiB, as on a full disk; the child's exit code is the error's.
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{64 << 10, 64 << 10};
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      save_checkpoint(folder.path(), 2, content_of(2, 100'000), kDigests);
    } catch (const Error& error) {
      _exit(static_cast<int>(error.code()));
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 74);
  EXPECT_THAT(names(folder.path()), ElementsAre("latest", "step-00000001"));
  CheckpointContent huge = content_of(3);
  huge.model[0] = TensorPart({"model.norm.weight", at::kFloat, {int64_t{1} << 50}}, 0, at::zeros({1}));
  EXPECT_FAILS(save_checkpoint(folder.path(), 3, huge, kDigests), ExitCode::io, "free some space");
  EXPECT_THAT(names(folder.path()), ElementsAre("latest", "step-00000001"));
}

}  // namespace
}  // namespace fusion
