// Ids that the official classes gave (formats.md 3), where the tokenizer folders are at hand. The large files are checked by study's verify test.
#include "fusion/text/conversation.h"
#include "shared_data.h"

#include <gtest/gtest.h>

namespace fusion {
namespace {

std::shared_ptr<const Tokenizer> shared_tokenizer(const std::string& name) {
  const auto folder = test::shared_data("data/tokenizers/" + name);
  return folder ? load_tokenizer(*folder) : nullptr;
}

TEST(TextGolden, Phi) {
  const auto phi = shared_tokenizer("phi3-mini");
  if (!phi) GTEST_SKIP() << "../shared is not there";
  EXPECT_EQ(phi->size(), 32013);
  EXPECT_EQ(phi->encode("What is in the image?"), (Ids{1724, 338, 297, 278, 1967, 29973}));
  EXPECT_EQ(phi->encode("<vision_end>  What"), (Ids{32012, 29871, 1724}));
  EXPECT_EQ(phi->encode("a</s> b"), (Ids{263, 2, 29890}));
  EXPECT_EQ(phi->encode("Hello <s>."), (Ids{15043, 29871, 1, 29889}));
  EXPECT_EQ(phi->encode("caf\u00E9 \u4F60\u597D \U0001F600"), (Ids{274, 28059, 29871, 30919, 31076, 29871, 243, 162, 155, 131}));
  EXPECT_EQ(phi->encode("\u2581x"), (Ids{29871, 921}));
  EXPECT_EQ(phi->encode("\n<|user|>"), (Ids{29871, 13, 32010}));
  EXPECT_EQ(phi->decode(phi->encode("a</s> b")), "a </s> b");
  const ConversationEncoder encoder(phi, Template::phi_3);
  EXPECT_EQ(encoder.prompt({{"human", "What is in the image?"}}, {.has_image = true}).input_ids,
            (Ids{29871, 32006, 3492, 526,   263, 8444, 319, 29902, 20255, 29889, 32007, 32010, 32011, -300,
                 32012, 32011, -200, 32012, 13,  5618, 338, 297,   278,   1967,  29973, 32007, 32001}));
  EXPECT_EQ(encoder.answer_text({3869, 29889, 32007, 5}), "Yes.");
}

TEST(TextGolden, LlamaTwoAndVicuna) {
  const auto legacy = shared_tokenizer("llama2"), vicuna = shared_tokenizer("vicuna");
  if (!legacy || !vicuna) GTEST_SKIP() << "../shared is not there";
  EXPECT_EQ(legacy->encode("Hello <s>."), (Ids{1, 15043, 29871, 1, 869}));
  EXPECT_EQ(vicuna->encode("Hello <s>."), (Ids{1, 15043, 29871, 1, 29889}));
  EXPECT_EQ(legacy->token_id("<vision_end>"), 32001);
}

TEST(TextGolden, LlamaThree) {
  const auto llama = shared_tokenizer("llama3");
  if (!llama) GTEST_SKIP() << "../shared is not there";
  EXPECT_EQ(llama->size(), 128258);
  EXPECT_EQ(llama->pad_id(), 128002);
  EXPECT_EQ(llama->encode("What is in the image?"), (Ids{128000, 3923, 374, 304, 279, 2217, 30}));
  EXPECT_EQ(llama->encode("it's 2024!\n\nOK"), (Ids{128000, 275, 596, 220, 2366, 19, 2268, 4012}));
  EXPECT_EQ(llama->encode("Hello  world"), (Ids{128000, 9906, 220, 1917}));
  EXPECT_EQ(llama->encode(""), Ids{128000});
}

/// A hundred thousand equal characters have no structure to hang on to: a quadratic encoder would take minutes.
TEST(TextGolden, LongRunsOfOneCharacter) {
  for (const char* name : {"phi3-mini", "llama3"}) {
    const auto tokenizer = shared_tokenizer(name);
    if (!tokenizer) GTEST_SKIP() << "../shared is not there";
    for (const char* unit : {"a", " ", "\n", "<", "'", "1", "\u4F60"}) {
      std::string text;
      while (text.size() < 100'000) text += unit;
      const Ids ids = tokenizer->encode(text, false);
      EXPECT_EQ(tokenizer->decode(ids), text) << name << " " << unit;
    }
  }
}

}  // namespace
}  // namespace fusion
