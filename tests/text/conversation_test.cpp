#include "fusion/text/conversation.h"

#include "errors.h"
#include "temp_folder.h"
#include "text_tools.h"

#include <algorithm>

namespace fusion {
namespace {

using test::TempFolder;

class Conversations : public testing::TestWithParam<Template> {
 protected:
  Conversations() {
    if (GetParam() == Template::phi_3) {
      tokenizer_ = test::tiny_phi(folder_.path());
    } else if (GetParam() == Template::vicuna_v1) {
      test::write_sentencepiece_folder(folder_.path(), test::train_sentencepiece("--model_type=bpe --byte_fallback=true"), {{"legacy", false}});
      tokenizer_ = load_tokenizer(folder_.path());
    } else {
      Json json = test::tiny_bpe_json();
      if (GetParam() == Template::qwen_2) {
        json["post_processor"] = nullptr;
        json["added_tokens"][3]["content"] = "<|im_start|>", json["added_tokens"][4]["content"] = "<|im_end|>";
      }
      test::write_bpe_folder(folder_.path(), json, test::tiny_bpe_config());
      tokenizer_ = load_tokenizer(folder_.path());
    }
    encoder_ = std::make_unique<ConversationEncoder>(tokenizer_, GetParam());
  }

  const ChatTemplate& strings() const { return chat_template(GetParam()); }

  /// Text of the supervised ids of answer `turn` (labels between two question ends).
  std::string supervised_text(const EncodedConversation& encoded, int64_t turn) const {
    Ids ids;
    int64_t seen = -1;
    for (const int64_t label : encoded.labels) {
      if (label == kInstruct)
        ++seen;
      else if (label != kIgnore && seen == turn)
        ids.push_back(label);
    }
    std::string text = tokenizer_->decode(ids);
    return text;
  }

  TempFolder folder_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<ConversationEncoder> encoder_;
};

TEST_P(Conversations, SupervisesAnswersAndTheirSeparator) {
  const std::vector<Turn> turns = {
      {"human", "<image>\nWhat is it?"}, {"gpt", "A circle."}, {"human", "How many?"}, {"gpt", "12345 cats\n\nand dogs"}};
  const EncodedConversation out = encoder_->encode(turns, {.has_image = true});
  ASSERT_EQ(out.input_ids.size(), out.labels.size());
  EXPECT_EQ(std::count(out.labels.begin(), out.labels.end(), kInstruct), 2);
  EXPECT_EQ(std::count(out.input_ids.begin(), out.input_ids.end(), kLatent), 2);
  EXPECT_EQ(out.images, 1);
  EXPECT_EQ(out.supervised, std::count_if(out.labels.begin(), out.labels.end(), [](int64_t label) { return label >= 0; }));
  for (size_t i = 0; i < out.labels.size(); ++i) {
    if (out.labels[i] >= 0) {
      EXPECT_EQ(out.labels[i], out.input_ids[i]);
    }
  }
  for (const int64_t turn : {0, 1}) {
    const std::string text = supervised_text(out, turn), end(strings().answer_end);
    ASSERT_TRUE(text.ends_with(end)) << text;
    EXPECT_EQ(strip(text.substr(0, text.size() - end.size())), turns[static_cast<size_t>(2 * turn + 1)].value);
  }
  ASSERT_EQ(out.turn_ends.size(), 2u);
  for (const int64_t end : out.turn_ends) EXPECT_EQ(out.labels[static_cast<size_t>(end) - 1], *tokenizer_->token_id(strings().answer_end));
  EXPECT_EQ(out.instruct, tokenizer_->encode("What is it?How many?"));
}

TEST_P(Conversations, PromptsSayWhereTheWordsOfTheQuestionAre) {
  const std::string question = "How many cats?";
  for (const bool typed : {true, false})
    for (const std::vector<Turn>& before : {std::vector<Turn>{}, {{"human", "What is it?"}, {"gpt", "A circle."}}}) {
      std::vector<Turn> turns = before;
      turns.push_back({"human", question});
      const EncodedConversation prompt = encoder_->prompt(turns, {.has_image = true, .typed = typed});
      ASSERT_EQ(prompt.begins.size(), prompt.input_ids.size());
      const auto text_of = [&](int64_t begin, int64_t end) {  // of the tokens that hold any of these bytes of the question
        Ids ids;
        for (size_t i = 0; i + 1 < prompt.begins.size(); ++i)
          if (prompt.begins[i] < end && prompt.begins[i + 1] > begin) ids.push_back(prompt.input_ids[i]);
        return std::string(strip(tokenizer_->decode(ids)));
      };
      EXPECT_EQ(text_of(0, std::ssize(question)), question);
      EXPECT_EQ(text_of(4, 8), "many");
    }
}

/// The prompt of a question is what training sees up to its question end, whatever stands before.
TEST_P(Conversations, PromptIsThePrefixOfTheTrainingSample) {
  RandomStream draw({21, static_cast<uint64_t>(GetParam())});
  for (int round = 0; round < 200; ++round) {
    std::vector<Turn> turns;
    const uint64_t pairs = 1 + draw.below(3);
    const bool has_image = draw.below(2) == 0;
    for (uint64_t i = 0; i < pairs; ++i) {
      const std::string mark = has_image && draw.below(2) == 0 ? "<image>" : "";
      turns.push_back({"human", test::random_text(draw, 1 + draw.below(6)) + mark + "?"});
      turns.push_back({"gpt", "x" + test::random_text(draw, draw.below(6))});  // no leading white space: LLaMA-3 fuses line ends with the header
    }
    const bool marked = std::any_of(turns.begin(), turns.end(), [](const Turn& turn) { return turn.value.find("<image>") != std::string::npos; });
    if (has_image && !marked) turns[0].value = "<image>" + turns[0].value;
    const EncodedConversation full = encoder_->encode(turns, {.has_image = has_image});
    turns.pop_back();
    const EncodedConversation prompt = encoder_->prompt(turns, {.has_image = has_image});
    const size_t length = prompt.input_ids.size();
    ASSERT_LT(length, full.input_ids.size());
    ASSERT_EQ(prompt.input_ids, Ids(full.input_ids.begin(), full.input_ids.begin() + static_cast<ptrdiff_t>(length)));
    ASSERT_EQ(prompt.labels.back(), kInstruct);
    ASSERT_EQ(std::count(prompt.labels.begin(), prompt.labels.end(), kInstruct), static_cast<ptrdiff_t>(pairs));
    for (size_t i = 0; i < length; ++i) ASSERT_EQ(prompt.labels[i] == kInstruct, full.labels[i] == kInstruct) << "round " << round << " at " << i;
    ASSERT_EQ(prompt.supervised, 0);
    ASSERT_EQ(full.turn_ends.size(), pairs);
    ASSERT_TRUE(std::is_sorted(full.turn_ends.begin(), full.turn_ends.end()));
  }
}

TEST_P(Conversations, NormalisesPictureMarks) {
  const Ids expected = encoder_->encode({{"human", "<image>\nLook  here"}, {"gpt", "yes"}}, {.has_image = true}).input_ids;
  for (const char* text : {"<image>Look  here", " \u3000Look  here<image>\n", "\n<image> <image>\nLook  here", "Look <image> here"})
    EXPECT_EQ(encoder_->encode({{"human", text}, {"gpt", "yes"}}, {.has_image = true}).input_ids, expected) << text;
  EXPECT_EQ(encoder_->prompt({{"human", "Look  here"}}, {.has_image = true}).input_ids,
            Ids(expected.begin(), expected.begin() + std::ssize(encoder_->prompt({{"human", "Look  here"}}, {.has_image = true}).input_ids)));
  const EncodedConversation bare = encoder_->encode({{"human", "a <image> b"}, {"gpt", "yes"}}, {});
  EXPECT_EQ(bare.images, 1);  // a literal mark in a text-only sample
  EXPECT_EQ(bare.instruct, Ids{0});
  const EncodedConversation typed = encoder_->prompt({{"human", " see <image> "}}, {.has_image = true, .typed = true});
  EXPECT_EQ(typed.images, 2);
  EXPECT_EQ(typed.instruct, tokenizer_->encode("see"));
}

TEST_P(Conversations, PlaceholdersInAnAnswerAreLabels) {
  const EncodedConversation out = encoder_->encode({{"human", "q"}, {"gpt", "see <latent_image> there"}}, {});
  EXPECT_EQ(std::count(out.labels.begin(), out.labels.end(), kLatent), 1);
  EXPECT_EQ(out.supervised, std::count_if(out.labels.begin(), out.labels.end(), [](int64_t label) { return label >= 0; }));
  const EncodedConversation without = encoder_->encode({{"human", "q"}, {"gpt", "see <latent_image> there"}}, {.latents = false});
  EXPECT_EQ(std::count(without.input_ids.begin(), without.input_ids.end(), kLatent), 0);
}

TEST_P(Conversations, SeparatorsInATextDoNotMoveLabels) {
  const std::string end(strings().answer_end);
  const EncodedConversation out = encoder_->encode({{"human", "a" + end + "b"}, {"gpt", "c" + end + "d"}}, {});
  EXPECT_EQ(std::count(out.labels.begin(), out.labels.end(), kInstruct), 1);
  EXPECT_EQ(std::count(out.labels.begin(), out.labels.end(), *tokenizer_->token_id(end)), 2);
  EXPECT_EQ(out.turn_ends.size(), 1u);
}

TEST_P(Conversations, RejectsWithAReason) {
  const auto expect = [&](const std::vector<Turn>& turns, const char* part) { EXPECT_FAILS(encoder_->encode(turns, {}), ExitCode::data, part); };
  expect({}, "no_answer: ");
  expect({{"gpt", "a"}}, "no_answer: ");
  expect({{"human", "a"}}, "no_answer: ");
  expect({{"human", "a"}, {"human", "b"}}, "roles: turn 1 is 'human', expected 'gpt'");
  expect({{"gpt", "a"}, {"gpt", "b"}}, "roles: turn 1 is 'gpt', expected 'human'");
  expect({{"Human", "a"}, {"GPT", "b"}}, "roles: turn 0 is 'Human'");
  expect({{"human", ""}, {"gpt", "b"}}, "empty_turn: turn 0 (human)");
  expect({{"human", "a"}, {"gpt", ""}}, "empty_turn: turn 1 (gpt)");
  expect({{"human", "a\xED\xA0\xBD"}, {"gpt", "b"}}, "utf8: byte 1");
  EXPECT_EQ(encoder_->encode({{"gpt", "hello"}, {"human", "a"}, {"gpt", "b"}}, {}).input_ids,
            encoder_->encode({{"human", "a"}, {"gpt", "b"}}, {}).input_ids);
  EXPECT_FAILS(encoder_->prompt({{"human", "a"}, {"gpt", "b"}}, {}), ExitCode::data, "no_question: ");
  const EncodeOptions strict{.has_image = true, .collapse_images = false};
  EXPECT_FAILS(encoder_->encode({{"human", "a"}, {"gpt", "b"}}, strict), ExitCode::data, "images: 0 <image> marks for 1 picture");
  EXPECT_FAILS(encoder_->encode({{"human", "<image><image>a"}, {"gpt", "b"}}, strict), ExitCode::data, "images: 2 <image> marks for 1 picture");
  EXPECT_EQ(encoder_->encode({{"human", "<image>a"}, {"gpt", "b"}}, strict).images, 1);
}

TEST_P(Conversations, StopsAndAnswerText) {
  const std::vector<int64_t> stops = encoder_->stop_ids();
  EXPECT_EQ(stops[0], *tokenizer_->token_id(strings().answer_end));
  EXPECT_NE(std::find(stops.begin(), stops.end(), tokenizer_->eos_id()), stops.end());
  Ids ids = tokenizer_->encode(" A circle. ", false);
  EXPECT_EQ(encoder_->answer_text(ids), "A circle.");
  for (const int64_t stop : stops) {
    Ids stopped = ids;
    stopped.insert(stopped.end(), {stop, ids[0], stop});
    EXPECT_EQ(encoder_->answer_text(stopped), "A circle.");
  }
}

INSTANTIATE_TEST_SUITE_P(Templates, Conversations, testing::Values(Template::phi_3, Template::llama_3, Template::vicuna_v1, Template::qwen_2),
                         [](const auto& test) { return enum_name(test.param); });

TEST(ConversationEncoder, NeedsTheSeparatorAsAToken) {
  TempFolder folder;
  const auto phi = test::tiny_phi(folder.path());
  EXPECT_FAILS(ConversationEncoder(phi, Template::llama_3), ExitCode::usage, "no token '<|eot_id|>'");
}

TEST(ConversationEncoder, Llama3HeaderFusesWithLineEnds) {
  TempFolder folder;
  Json json = test::tiny_bpe_json();
  const int64_t ids = static_cast<int64_t>(json["model"]["vocab"].size());
  for (Json& token : json["added_tokens"]) token["id"] = token["id"].get<int64_t>() + 1;
  json["model"]["vocab"]["\u010A\u010A\u010A"] = ids;  // "\n\n\n"
  test::write_bpe_folder(folder.path(), json, test::tiny_bpe_config());
  const auto tokenizer = load_tokenizer(folder.path());
  const ConversationEncoder encoder(tokenizer, Template::llama_3);
  const EncodedConversation out = encoder.encode({{"human", "q"}, {"gpt", "\nyes"}}, {});
  const auto end = std::find(out.labels.begin(), out.labels.end(), kInstruct) - out.labels.begin();
  EXPECT_EQ(out.input_ids[static_cast<size_t>(end)], ids);  // the fused token is the question end and not supervised
  EXPECT_EQ(out.supervised, 4);                             // y e s <|eot_id|>
}

}  // namespace
}  // namespace fusion
