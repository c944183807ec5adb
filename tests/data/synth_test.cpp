#include "fusion/data/synth.h"

#include "errors.h"
#include "fusion/base/json.h"
#include "fusion/data/mixture.h"
#include "fusion/data/prepare.h"
#include "fusion/data/train_tokenizer.h"
#include "fusion/text/unicode.h"
#include "shared_data.h"
#include "temp_folder.h"

#include <set>
#include <sstream>

namespace fusion {
namespace {

using test::TempFolder;

std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) out[fs::relative(entry.path(), folder).string()] = read_file(entry.path());
  return out;
}

class Synth : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TempFolder>();
    write_synth(folder_->path(), options());
  }
  static void TearDownTestSuite() { folder_.reset(); }
  static SynthOptions options() { return {.stage1 = 120, .stage15 = 150, .stage2 = 160, .held_out = 60, .seed = 3}; }
  static std::unique_ptr<TempFolder> folder_;
};
std::unique_ptr<TempFolder> Synth::folder_;

TEST_F(Synth, IsAFunctionOfItsSeed) {
  TempFolder again, other;
  write_synth(again.path(), options());
  EXPECT_EQ(contents(folder_->path()), contents(again.path()));
  SynthOptions changed = options();
  changed.seed = 4;
  write_synth(other.path(), changed);
  EXPECT_NE(read_file(*folder_ / "stage2.json"), read_file(other / "stage2.json"));
}

TEST_F(Synth, EveryRowCanBeTrainedOnAndPicturesAreNotShared) {
  const ConversationEncoder encoder(load_tokenizer(*folder_ / "tokenizer"), Template::phi_3);
  std::set<std::string> pictures;
  int64_t rows = 0, text_only = 0, questions = 0;
  for (const char* name : {"stage1.json", "stage15.json", "stage2.json", "val.json"}) {
    const Mixture mixture(*folder_ / name, "", 0);
    for (int64_t i = 0; i < mixture.size(); ++i, ++rows) {
      const Sample sample = mixture.sample(i);
      const PreparedSample prepared = prepare_sample(sample, encoder, {.max_length = 256, .image_size = 48});
      text_only += sample.image.empty();
      questions += static_cast<int64_t>(sample.turns.size() / 2);
      EXPECT_TRUE(sample.image.empty() || pictures.insert(read_file(sample.image)).second) << sample.id;
      for (size_t t = 1; name != std::string("stage1.json") && t < sample.turns.size(); t += 2) {
        std::istringstream words(sample.turns[t].value);
        const auto count = std::distance(std::istream_iterator<std::string>(words), {});
        EXPECT_TRUE(count >= 1 && count <= 3) << sample.turns[t].value;
      }
    }
  }
  EXPECT_EQ(rows, 490);
  EXPECT_EQ(text_only, 8);
  EXPECT_GT(questions, 600);
}

TEST_F(Synth, BaselineIsTheCommonestAnswer) {
  const Json written = read_json(*folder_ / "baseline.json");
  const double figure = written["exact_match"].get<double>();
  EXPECT_GT(figure, 0.1);
  EXPECT_LT(figure, 0.6);
  EXPECT_EQ(written["answers"], 60);

  // The same counted another way.
  std::map<std::string, std::map<std::string, int>> counts;
  auto pairs = [](const fs::path& path, const std::function<void(const std::string&, const std::string&)>& use) {
    for (const Json& row : read_json(path)) {
      const Json& turns = row["conversations"];
      for (size_t i = 0; i < turns.size(); i += 2) {
        std::string question = turns[i]["value"];
        if (question.starts_with("<image>\n")) question = question.substr(8);
        use(question, turns[i + 1]["value"]);
      }
    }
  };
  for (const char* name : {"stage1.json", "stage15.json", "stage2.json"})
    pairs(*folder_ / name, [&](const std::string& question, const std::string& answer) { ++counts[question][answer]; });
  int right = 0;
  pairs(*folder_ / "val.json", [&](const std::string& question, const std::string& answer) {
    std::string best;
    int most = 0;
    for (const auto& [text, count] : counts[question])
      if (count > most) best = text, most = count;
    right += best == answer;
  });
  EXPECT_DOUBLE_EQ(figure, right / 60.0);
}

/// Every word of the file's turns, as it stands at the start of a text and behind a blank.
void expect_one_token_per_word(const Tokenizer& tokenizer, const std::vector<fs::path>& files) {
  std::set<std::string> words;
  for (const fs::path& path : files) {
    for (const Json& row : read_json(path)) {
      for (const Json& turn : row["conversations"]) {
        std::istringstream text(replace_all(turn["value"].get<std::string>(), "<image>", ""));
        for (std::string word; text >> word;) {
          while (!word.empty() && ispunct(word.back())) word.pop_back();
          words.insert(word);
        }
      }
    }
  }
  EXPECT_GT(words.size(), 20u);
  for (const std::string& word : words) EXPECT_EQ(tokenizer.encode(word).size(), 1u) << word;
}

TEST_F(Synth, TokenizerHasOneTokenPerWordAndDecodesExactly) {
  const auto tokenizer = load_tokenizer(*folder_ / "tokenizer");
  EXPECT_LT(tokenizer->size(), 900);
  expect_one_token_per_word(*tokenizer, {*folder_ / "stage1.json", *folder_ / "stage15.json", *folder_ / "stage2.json"});
  for (const char* text : {"red circle", "the word cat", "top left", "never seen wörds 你好, 2024!", "a red  circle"})
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  for (const char* token : {"<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>", "<vision_start>", "<vision_end>"})
    EXPECT_TRUE(tokenizer->token_id(token)) << token;
  EXPECT_EQ(tokenizer->pad_id(), 0);
  EXPECT_EQ(tokenizer->eos_id(), *tokenizer->token_id("<|endoftext|>"));
  EXPECT_FALSE(tokenizer->adds_bos());
}

TEST(TrainTokenizer, Digits) {
  const auto folder = test::shared_data("data/digits");
  if (!folder) GTEST_SKIP() << "no reference data (shared/data/digits)";
  TempFolder out;
  const std::vector<fs::path> files = {*folder / "stage1.json", *folder / "stage15.json", *folder / "stage2.json"};
  train_tokenizer(files, 2000, out.path());
  const auto tokenizer = load_tokenizer(out.path());
  expect_one_token_per_word(*tokenizer, files);
  const ConversationEncoder encoder(tokenizer, Template::phi_3);
  const Mixture mixture(files[2], "", 0);
  for (int64_t i = 0; i < 200; ++i) EXPECT_NO_THROW(prepare_sample(mixture.sample(i), encoder, {.max_length = 256, .image_size = 48}));
  EXPECT_NEAR(commonest_answers(files, *folder / "val.json").exact_match, 0.2267, 0.001);
}

TEST(TrainTokenizer, SaysWhenPiecesAreTooFew) {
  TempFolder folder;
  write_file(folder / "a.json", R"([{"conversations": [{"from": "human", "value": "abc"}, {"from": "gpt", "value": "def"}]}])");
  EXPECT_FAILS(train_tokenizer({folder / "a.json"}, 50, folder / "t"), ExitCode::usage, "at most 50 pieces");
}

}  // namespace
}  // namespace fusion
