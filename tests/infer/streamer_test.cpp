#include "fusion/infer/streamer.h"

#include "errors.h"
#include "fusion/base/random.h"
#include "fusion/text/unicode.h"
#include "infer/tiny_model.h"
#include "shared_data.h"

namespace fusion {
namespace {

struct Streamed {
  std::vector<std::string> pieces;
  std::string answer;
};

Streamed stream(const ConversationEncoder& encoder, const Ids& ids) {
  Streamed streamed;
  TextStreamer streamer(encoder, [&](std::string_view piece) { streamed.pieces.emplace_back(piece); });
  for (const int64_t id : ids) streamer.put(id);
  streamed.answer = streamer.finish();
  return streamed;
}

/// Pieces are whole characters and together the answer.
void expect_whole(const ConversationEncoder& encoder, const Ids& ids) {
  const Streamed streamed = stream(encoder, ids);
  std::string joined;
  for (const std::string& piece : streamed.pieces) {
    EXPECT_EQ(invalid_utf8(piece), std::string::npos);
    EXPECT_FALSE(piece.empty());
    joined += piece;
  }
  EXPECT_EQ(streamed.answer, encoder.answer_text(ids));
  EXPECT_EQ(joined, streamed.answer);
}

const std::string kText =
    "The quick brown fox isn't here, it can't be. Gr\xC3\xBC\xC3\x9F"
    "e! \xE4\xBD\xA0\xE5\xA5\xBD\xE4\xB8\x96\xE7\x95\x8C \xF0\x9F\x98\x80"
    "\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x9A\x80 do n't \" 've \n\n  x  ";

void check_tokenizer(const fs::path& folder, Template name) {
  const ConversationEncoder encoder(load_tokenizer(folder), name);
  const Ids text = encoder.tokenizer().encode(kText, false);
  expect_whole(encoder, text);
  EXPECT_GT(stream(encoder, text).pieces.size(), 10u);
  for (size_t cut = 0; cut <= text.size(); ++cut) expect_whole(encoder, Ids(text.begin(), text.begin() + static_cast<ptrdiff_t>(cut)));
  // Any tokens: parts of characters in any order, special tokens, white space.
  const auto stops = encoder.stop_ids();
  RandomStream draw({11});
  for (int round = 0; round < 60; ++round) {
    Ids ids;
    for (int i = 0; i < 30; ++i) {
      const bool byte = draw.below(2) == 0;
      const auto id = static_cast<int64_t>(draw.below(byte ? std::min<uint64_t>(260, encoder.tokenizer().size()) : encoder.tokenizer().size()));
      if (!std::count(stops.begin(), stops.end(), id)) ids.push_back(id);
    }
    expect_whole(encoder, ids);
  }
}

TEST(Streamer, OwnTokenizer) { check_tokenizer(test::tiny().path("tokenizer"), Template::phi_3); }

TEST(Streamer, PublishedTokenizers) {
  for (const auto& [name, chat] :
       {std::pair("phi3-mini", Template::phi_3), std::pair("llama3", Template::llama_3), std::pair("vicuna", Template::vicuna_v1)}) {
    const auto folder = test::shared_data(std::string("data/tokenizers/") + name);
    if (!folder) GTEST_SKIP() << "no shared data";
    SCOPED_TRACE(name);
    check_tokenizer(*folder, chat);
  }
}

TEST(Streamer, GivesCharactersAsSoonAsTheyAreWhole) {
  const ConversationEncoder encoder(load_tokenizer(test::tiny().path("tokenizer")), Template::phi_3);
  // Unknown to the tokenizer, so four byte tokens.
  const Ids ids = encoder.tokenizer().encode("\xF0\x9F\x98\x80", false);
  std::vector<std::string> pieces;
  TextStreamer streamer(encoder, [&](std::string_view piece) { pieces.emplace_back(piece); });
  for (size_t i = 0; i + 1 < ids.size(); ++i) streamer.put(ids[i]);
  EXPECT_TRUE(pieces.empty());
  streamer.put(ids.back());
  EXPECT_EQ(pieces, std::vector<std::string>{"\xF0\x9F\x98\x80"});
}

}  // namespace
}  // namespace fusion
