#include "errors.h"
#include "fusion/base/json.h"
#include "fusion/study/verify.h"
#include "fusion/text/conversation.h"
#include "shared_data.h"
#include "temp_folder.h"
#include "text/text_tools.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/randperm.h>

namespace fusion {
namespace {

using test::TempFolder;

/// A small reference folder whose expectations come from our own encoder: the checker must pass it, and must fail each altered copy.
class OwnCase {
 public:
  OwnCase() {
    make_directories(tokenizers() / "tiny");
    make_directories(folder() / "mixture");
    const auto tokenizer = test::tiny_phi(tokenizers() / "tiny");
    const ConversationEncoder encoder(tokenizer, Template::phi_3);
    put("golden.json", {{"kind", "text"}, {"format", 1}, {"tokenizers", {{"phi_3", "tiny"}}}});
    const std::vector<Turn> turns = {{"human", "<image>\nWhat is it?"}, {"gpt", "A cat."}};
    const Json conversations = Json::array({{{"from", "human"}, {"value", turns[0].value}}, {{"from", "gpt"}, {"value", turns[1].value}}});
    put("conversations.jsonl", {{"id", "x1"}, {"image", "x.png"}, {"conversations", conversations}},
        R"({"id":"x2","conversations":[{"from":"human"}]})");
    const EncodedConversation sample = encoder.encode(turns, {.has_image = true});
    put("phi_3.train.jsonl", {{"id", "x1"},
                              {"modality_length", 6},
                              {"layout", "regular"},
                              {"input_ids", sample.input_ids},
                              {"labels", sample.labels},
                              {"instructs", sample.instruct}});
    put("phi_3.rejected.jsonl", {{"id", "x2"}, {"status", "raises"}});
    Ids cut(sample.input_ids.begin(), sample.input_ids.begin() + 8), labels(sample.labels.begin(), sample.labels.begin() + 8);
    put("phi_3.collate.jsonl", {{"ids_of_samples", {"x1"}},
                                {"model_max_length", 8},
                                {"pad_token_id", 0},
                                {"input_ids", Json::array({cut})},
                                {"labels", Json::array({labels})},
                                {"attention_mask", Json::array({Ids(8, 1)})},
                                {"instructs", Json::array({sample.instruct})}});
    const EncodedConversation prompt = encoder.prompt({{"human", "Where?"}}, {.has_image = true, .typed = true});
    const Json row = {{"input_ids", prompt.input_ids}, {"instructs", prompt.instruct}, {"labels", prompt.labels}};
    Json turn = row, query = row;
    turn["user"] = "Where?", turn["reply_ids"] = tokenizer->encode("There."), turn["reply_text"] = "There.";
    put("phi_3.chat.jsonl", {{"script", "cli"}, {"turns", Json::array({turn})}});
    query["text"] = "Where?", query["labels"] = nullptr;
    put("phi_3.query.jsonl", query);
    const Ids ids = tokenizer->encode("the cat<|end|>");
    put("tiny.encode.jsonl",
        {{"text", "the cat<|end|>"}, {"ids", ids}, {"ids_plain", ids}, {"decode", "the cat <|end|>"}, {"decode_skip", "the cat <|end|>"}});
    put("tiny.decode.jsonl", {{"ids", ids}, {"text", "the cat <|end|>"}, {"text_skip", "the cat <|end|>"}});
    // One modality, batches of one: the orders are torch.randperm(3) of seed 0, drawn twice.
    const auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{0});
    const auto draw = [&] {
      const at::Tensor order = at::randperm(3, generator, at::TensorOptions().dtype(at::kLong));
      return Ids(order.const_data_ptr<int64_t>(), order.const_data_ptr<int64_t>() + 3);
    };
    const Ids order = draw(), next = draw();
    put("sampling.json", {{"lengths", {{"three", {5, 6, 7}}}},
                          {"zero_length_error", "no zero"},
                          {"cases", Json::array({{{"lengths", "three"},
                                                  {"batch_size", 1},
                                                  {"world_size", 1},
                                                  {"seed", 0},
                                                  {"order", order},
                                                  {"next_order", next},
                                                  {"rank_batches", Json::array({Json::array({Ids{order[0]}, Ids{order[1]}, Ids{order[2]}})})}}})}});
    put("mixture/a.jsonl", {{"id", "a0"}, {"conversations", conversations}});
    write_file(folder() / "mixture/all.yaml", "datasets:\n- json_path: a.jsonl\n");
    write_file(folder() / "mixture/nothing.yaml", "datasets:\n- json_path: a.jsonl\n  sampling_strategy: 'end:0'\n");
    write_file(folder() / "mixture/drawn.yaml", "datasets:\n- json_path: a.jsonl\n  sampling_strategy: random:1\n");
    put("mixture/expected.json", {{"all", {{"ids", {"a0"}}}}, {"nothing", {{"ids", {"a0"}}}}, {"drawn", {{"ids", {"a0"}}}}});
  }

  fs::path folder() const { return root_ / "golden/text"; }
  fs::path tokenizers() const { return root_ / "data/tokenizers"; }
  VerifyReport verify() const { return verify_text(folder(), tokenizers()); }

  /// Replaces a text of a file once.
  void alter(const std::string& file, const std::string& from, const std::string& to) const {
    std::string text = read_file(folder() / file);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << file << ": " << from;
    write_file(folder() / file, text.replace(at, from.size(), to));
  }

 private:
  void put(const std::string& file, const Json& line, const std::string& second = {}) const {
    make_directories((folder() / file).parent_path());
    write_file(folder() / file, dump_json(line, -1) + "\n" + (second.empty() ? "" : second + "\n"));
  }
  TempFolder root_;
};

std::string failures(const VerifyReport& report) {
  std::string text;
  for (const VerifyRow& row : report.rows)
    if (row.verdict == Verdict::fail) text += row.where + " " + row.quantity + " (" + row.note + ")\n";
  return text;
}

TEST(VerifyText, PassesItsOwnCase) {
  const VerifyReport report = OwnCase().verify();
  EXPECT_EQ(failures(report), "");
  EXPECT_EQ(report.count(Verdict::skip), 1);  // the random draw
  EXPECT_GE(report.count(Verdict::pass), 25);
}

TEST(VerifyText, FailsOnEveryAlteredFile) {
  const struct {
    const char *file, *from, *to, *caught;
  } alterations[] = {
      {"phi_3.train.jsonl", "\"input_ids\":[", "\"input_ids\":[7,", "phi_3.train.jsonl input_ids (first: x1: position 0: ours "},
      {"phi_3.train.jsonl", "-400", "-100", "phi_3.train.jsonl labels (first: x1: position "},
      {"phi_3.train.jsonl", "\"instructs\":[", "\"instructs\":[0,", "phi_3.train.jsonl instructs"},
      {"phi_3.train.jsonl", "\"modality_length\":6", "\"modality_length\":-6", "phi_3.train.jsonl modality_length"},
      {"phi_3.collate.jsonl", "\"attention_mask\":[[1", "\"attention_mask\":[[0", "phi_3.collate.jsonl attention_mask"},
      {"phi_3.collate.jsonl", "\"pad_token_id\":0", "\"pad_token_id\":1", "phi_3.collate.jsonl pad_token_id"},
      {"phi_3.collate.jsonl", "\"model_max_length\":8", "\"model_max_length\":9", "phi_3.collate.jsonl input_ids"},
      {"phi_3.chat.jsonl", "\"user\":\"W", "\"user\":\" W", "phi_3.chat.jsonl input_ids (first: chat 1 turn 1"},
      {"phi_3.chat.jsonl", "-400", "-100", "phi_3.chat.jsonl labels"},
      {"phi_3.chat.jsonl", "There.", "There!", "phi_3.chat.jsonl reply_text"},
      {"phi_3.query.jsonl", "\"instructs\":[", "\"instructs\":[0,", "phi_3.query.jsonl instructs"},
      {"tiny.encode.jsonl", "\"ids_plain\":[", "\"ids_plain\":[1,", "tiny.encode.jsonl ids_plain"},
      {"tiny.decode.jsonl", "\"text\":\"the", "\"text\":\" the", "tiny.decode.jsonl text (first: line 1"},
      {"sampling.json", "\"order\":[", "\"order\":[3,", "sampling.json order"},
      {"sampling.json", "\"next_order\":[", "\"next_order\":[3,", "sampling.json next_order"},
      {"sampling.json", "[[[", "[[[3,", "sampling.json rank_batches"},
      {"mixture/expected.json", "\"all\":{\"ids\":[\"a0\"]", "\"all\":{\"ids\":[\"a0\",\"a0\"]", "mixture ids or error (first: all"},
      {"mixture/nothing.yaml", "end:0", "end:1", ""},  // no error is declared any more, and the ids agree
      {"mixture/all.yaml", "a.jsonl", "b.jsonl", "mixture ids or error (first: all: "},
      {"conversations.jsonl", "A cat", "The cat", "phi_3.train.jsonl labels"},
  };
  for (const auto& [file, from, to, caught] : alterations) {
    const OwnCase altered;
    altered.alter(file, from, to);
    const std::string found = failures(altered.verify());
    if (*caught == '\0')
      EXPECT_EQ(found, "") << file;
    else
      EXPECT_THAT(found, testing::HasSubstr(caught)) << file << ": " << from << " -> " << to;
  }
}

TEST(VerifyText, SaysWhatIsMissing) {
  const OwnCase broken;
  broken.alter("golden.json", "phi_3", "phi_9");
  EXPECT_FAILS(broken.verify(), ExitCode::usage, "names the template 'phi_9'");
  fs::remove(broken.folder() / "golden.json");
  EXPECT_FAILS(broken.verify(), ExitCode::io, "golden.json");
}

TEST(VerifyText, AllReferenceCasesPass) {
  const auto folder = test::shared_data("golden/text"), tokenizers = test::shared_data("data/tokenizers");
  if (!folder || !tokenizers) GTEST_SKIP() << "../shared is not there";
  const VerifyReport report = verify_text(*folder, *tokenizers);
  EXPECT_EQ(failures(report), "");
  EXPECT_GE(report.count(Verdict::pass), 80);
}

}  // namespace
}  // namespace fusion
