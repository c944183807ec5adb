#include "errors.h"
#include "fusion/text/piece_encoder.h"
#include "shared_data.h"
#include "temp_folder.h"
#include "text_tools.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fusion {
namespace {

using test::TempFolder;

const std::string& bpe_model() {
  static const std::string model = test::train_sentencepiece("--model_type=bpe --byte_fallback=true");
  return model;
}

void expect_same(const PieceEncoder& ours, const PieceEncoder& library, const std::string& text, bool prefix) {
  EncodedPieces a, b;
  ours.encode(text, prefix, 5, a);
  library.encode(text, prefix, 5, b);
  const auto at = std::mismatch(a.ids.begin(), a.ids.end(), b.ids.begin(), b.ids.end()).first - a.ids.begin();
  ASSERT_EQ(a.ids, b.ids) << "from id " << at << " on, prefix " << prefix << ", '" << text << "'";
  for (size_t i = 1; i < a.begins.size(); ++i) ASSERT_LE(a.begins[i - 1], a.begins[i]);
}

void compare_with_library(const std::string& bytes, int rounds) {
  const SentencePieceModel model = read_sentencepiece_model(bytes, "model");
  ASSERT_TRUE(can_merge(model));
  const auto ours = merge_encoder(model), library = library_encoder(bytes, model, false, "model"),
             legacy = library_encoder(bytes, model, true, "model");
  RandomStream draw({11});
  for (int round = 0; round < rounds; ++round) {
    std::string text = test::random_text(draw, draw.below(30));
    if (round % 7 == 0) text = std::string(draw.below(200), ' ') + text + std::string(draw.below(200), 'e');
    if (round % 11 == 0) text += "\u2581\u2581x\u2581";
    if (text.empty()) continue;
    expect_same(*ours, *library, text, false);
    expect_same(*ours, *library, text, true);
    expect_same(*ours, *legacy, text, true);
  }
}

TEST(SentencePiece, MergingEqualsTheLibrary) { compare_with_library(bpe_model(), 1500); }

TEST(SentencePiece, MergingEqualsTheLibraryWhenPiecesCrossWords) {
  compare_with_library(test::train_sentencepiece("--model_type=bpe --byte_fallback=true --split_by_whitespace=false"), 400);
}

TEST(SentencePiece, MergingEqualsTheLibraryOnTheLlamaModel) {
  const auto path = test::shared_data("data/tokenizers/llama2/tokenizer.model");
  if (!path) GTEST_SKIP() << "../shared is not there";
  compare_with_library(read_file(*path), 400);
}

TEST(SentencePiece, OtherKindsOfModelGoThroughTheLibrary) {
  for (const char* arguments : {"--model_type=unigram", "--model_type=unigram --byte_fallback=true", "--model_type=char", "--model_type=bpe",
                                "--model_type=bpe --byte_fallback=true --user_defined_symbols=cat"}) {
    TempFolder folder;
    const std::string bytes = test::train_sentencepiece(arguments);
    EXPECT_FALSE(can_merge(read_sentencepiece_model(bytes, "model"))) << arguments;
    for (const bool legacy : {false, true}) {
      test::write_sentencepiece_folder(folder.path(), bytes, {{"legacy", legacy}, {"add_bos_token", false}});
      const auto tokenizer = load_tokenizer(folder.path());
      std::vector<int64_t> begins;
      const std::string text = "The cat's sitting on the mat</s>a  small circle";
      const Ids ids = tokenizer->encode(text, true, &begins);
      ASSERT_EQ(ids.size(), begins.size());
      if (!legacy) {
        EXPECT_EQ(tokenizer->decode(ids), text) << arguments;
      }
      const auto end = std::find(ids.begin(), ids.end(), 2);
      ASSERT_NE(end, ids.end());
      EXPECT_EQ(begins[static_cast<size_t>(end - ids.begin())], 28);
    }
  }
}

TEST(SentencePiece, PhiRules) {
  TempFolder folder;
  const auto tokenizer = test::tiny_phi(folder.path());
  const auto id = [&](const char* token) { return tokenizer->token_id(token).value(); };
  const int64_t blank = id("\u2581"), user = id("<|user|>"), end = id("<|end|>");
  EXPECT_EQ(tokenizer->encode(""), Ids{});
  EXPECT_EQ(tokenizer->encode("<|user|> \n\t\u3000\x1C<|end|>"), (Ids{blank, user, end}));  // swallows what Python strips
  EXPECT_EQ(tokenizer->encode("<|user|>\u2581<|end|>"), (Ids{blank, user, end}));           // U+2581 counts as a space
  EXPECT_EQ(tokenizer->encode("<s><|end|>"), (Ids{1, end}));                                // the blank falls before a special token
  EXPECT_EQ(tokenizer->encode("<vision_start>"), Ids{id("<vision_start>")});
  EXPECT_EQ(tokenizer->encode("</s>  <s> "), (Ids{blank, 2, 1, blank}));  // </s> is no special token here
  EXPECT_EQ(tokenizer->encode("\u2581the"), tokenizer->encode(" the"));
  EXPECT_EQ(tokenizer->pad_id(), 0);
  EXPECT_EQ(tokenizer->eos_id(), id("<|endoftext|>"));
  EXPECT_FALSE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->decode({user, id("<vision_end>"), end, blank, end}, true), "<|user|> <|end|> <|end|>");
  EXPECT_FAILS(tokenizer->encode("a\xFF"), ExitCode::data, "utf8");
}

TEST(SentencePiece, BeginsPointIntoTheText) {
  TempFolder folder;
  const auto tokenizer = test::tiny_phi(folder.path());
  const std::string text = "\u2581the \u2581<|user|>  cat\u4F60\u59EB<|end|>";  // the second character is in no piece: bytes
  std::vector<int64_t> begins;
  const Ids ids = tokenizer->encode(text, true, &begins);
  ASSERT_EQ(ids.size(), begins.size());
  EXPECT_TRUE(std::is_sorted(begins.begin(), begins.end()));
  const auto begin_of = [&](const char* token) {
    return begins[static_cast<size_t>(std::find(ids.begin(), ids.end(), *tokenizer->token_id(token)) - ids.begin())];
  };
  EXPECT_EQ(begin_of("<|user|>"), static_cast<int64_t>(text.find("<|user|>")));
  EXPECT_EQ(begin_of("<|end|>"), static_cast<int64_t>(text.find("<|end|>")));
  EXPECT_EQ(begin_of("<0xE5>"), static_cast<int64_t>(text.find("\u59EB")));
  EXPECT_EQ(begins[0], 0);
}

TEST(SentencePiece, LegacyPutsABlankBeforeEverySegment) {
  TempFolder folder;
  test::write_sentencepiece_folder(folder.path(), bpe_model(), {{"add_bos_token", true}});  // legacy is the class default
  const auto tokenizer = load_tokenizer(folder.path());
  const Ids with = tokenizer->encode("the</s>the");
  test::write_sentencepiece_folder(folder.path(), bpe_model(), {{"legacy", false}});
  const auto modern = load_tokenizer(folder.path());
  const int64_t the = tokenizer->token_id("\u2581the").value();
  EXPECT_EQ(with, (Ids{1, the, 2, the}));
  EXPECT_NE(modern->encode("the</s>the"), with);
  EXPECT_NE(modern->digest(), tokenizer->digest());
}

TEST(SentencePiece, DecodesWhatItEncodes) {
  TempFolder folder;
  const auto tokenizer = test::tiny_phi(folder.path());
  RandomStream draw({5});
  for (int round = 0; round < 1500; ++round) {
    const std::string text = "x" + test::random_text(draw, draw.below(40));  // a leading run of blanks loses its pieces, as in the class
    ASSERT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
}

TEST(SentencePiece, SavedFolderIsTheSameTokenizer) {
  TempFolder folder, copy;
  const auto tokenizer = test::tiny_phi(folder.path());
  tokenizer->save(copy.path());
  const auto again = load_tokenizer(copy.path());
  EXPECT_EQ(again->digest(), tokenizer->digest());
  EXPECT_EQ(again->size(), tokenizer->size());
  RandomStream draw({6});
  for (int round = 0; round < 50; ++round) {
    const std::string text = test::random_text(draw, 10) + "<|user|> \n" + test::random_text(draw, 10) + "<vision_end><s>";
    ASSERT_EQ(again->encode(text), tokenizer->encode(text));
  }
  const Json config = read_json(copy / "tokenizer_config.json"), added = read_json(copy / "added_tokens.json"),
             map = read_json(copy / "special_tokens_map.json");
  EXPECT_EQ(config["pad_token"], "<unk>");
  EXPECT_EQ(config["additional_special_tokens"], (Json{"<vision_start>", "<vision_end>"}));
  EXPECT_EQ(config["legacy"], false);
  std::vector<std::string> keys;
  for (const auto& [key, value] : config.items()) keys.push_back(key);
  EXPECT_TRUE(std::is_sorted(keys.begin(), keys.end()));
  EXPECT_EQ(added["<vision_end>"], tokenizer->size() - 1);
  EXPECT_FALSE(added.contains("<s>"));
  EXPECT_EQ(map["eos_token"]["content"], "<|endoftext|>");
}

TEST(SentencePiece, OlderFoldersWithoutAddedTokensDecoder) {
  TempFolder folder;
  test::write_sentencepiece_folder(folder.path(), bpe_model(), {{"legacy", false}, {"add_bos_token", false}});
  const int64_t pieces = load_tokenizer(folder.path())->size() - 2;
  write_file(folder / "added_tokens.json", fmt::format(R"({{"<pad>": {}, "<x>": {}}})", pieces, pieces + 1));
  write_file(folder / "special_tokens_map.json", R"({"pad_token": "<pad>", "eos_token": {"content": "<x>", "lstrip": false, "rstrip": false}})");
  const auto tokenizer = load_tokenizer(folder.path());
  EXPECT_EQ(tokenizer->eos_id(), pieces + 1);
  EXPECT_EQ(tokenizer->pad_id(), 0);  // pad = unk
  EXPECT_EQ(tokenizer->token_id("<vision_start>"), pieces + 2);
  EXPECT_EQ(tokenizer->decode({pieces + 1, 5}, true).find("<x>"), std::string::npos);
}

TEST(SentencePiece, RefusesContradictoryFolders) {
  TempFolder folder;
  const auto expect = [&](const Json& config, const char* part) {
    test::write_sentencepiece_folder(folder.path(), bpe_model(), config);
    EXPECT_FAILS(load_tokenizer(folder.path()), ExitCode::usage, part);
  };
  expect({{"added_tokens_decoder", {{"7", {{"content", "<odd>"}}}}}}, "gives that id to another entry");
  expect({{"added_tokens_decoder", {{"90000", {{"content", "<odd>"}}}}}}, "without gaps or repeats; 90000 does not");
  expect({{"added_tokens_decoder", {{"x", {{"content", "<odd>"}}}}}}, "'x' is no id");
  expect({{"added_tokens_decoder", Json::array()}}, "must be an object");
  expect({{"add_eos_token", true}}, "add_eos_token true is not supported");
  expect({{"legacy", "no"}}, "'legacy' must be true or false");
  expect({{"sp_model_kwargs", {{"alpha", 0.1}}}}, "sp_model_kwargs");
  expect({{"tokenizer_class", "BertTokenizer"}}, "no tokenizer.json");
  EXPECT_FAILS(load_tokenizer(folder / "nowhere"), ExitCode::usage, "no such folder");
  fs::remove(folder / "tokenizer.model");
  write_file(folder / "tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
  EXPECT_FAILS(load_tokenizer(folder.path()), ExitCode::usage, "copy it from the base model's folder");
}

/// One protobuf field with a length.
std::string field(int number, const std::string& bytes) {
  return std::string(1, static_cast<char>(number << 3 | 2)) + static_cast<char>(bytes.size()) + bytes;
}
std::string piece(const std::string& text, float score = 0, char type = 1) {
  std::string score_bytes(4, '\0');
  std::memcpy(score_bytes.data(), &score, 4);
  return field(1, field(1, text) + "\x15" + score_bytes + "\x18" + type);
}

TEST(SentencePiece, RefusesDamagedModels) {
  const auto expect = [](const std::string& bytes, const char* part) { EXPECT_FAILS(read_sentencepiece_model(bytes, "m"), ExitCode::usage, part); };
  const std::string good = piece("<unk>", 0, 2) + piece("a");
  EXPECT_EQ(read_sentencepiece_model(good, "m").pieces.size(), 2u);
  expect("", "0 unknown pieces");
  expect(piece("a"), "0 unknown pieces");
  expect(good + piece("a"), "'a' occurs twice");
  expect(good + piece("b", std::nanf("")), "finite score");
  expect(good + piece("b", 0, 9), "unknown type");
  expect(good + piece(""), "a piece without text");
  expect(good + piece("\xC0\x80"), "not UTF-8");
  expect(good + piece("<0x0A>", 0, 6), "1 byte pieces, 0 are needed");
  expect(good + piece("<0xZZ>", 0, 6), "no byte piece");
  expect(good + "\x0A\xFF", "is no SentencePiece model");  // a cut length
  expect(good +
             "\x0A\x7F"
             "abc",
         "a length beyond the end");
  expect(good + std::string("\x0B", 1), "an unknown wire type");
  expect(good + field(3, field(2, "table")), "a table of 5 bytes");
  expect(good + field(5, field(2, "table")), "changes decoded text");
  expect(good + field(2, "\x18\x07"), "a model of unknown type");
  expect(good + field(2,
                      "\x1D"
                      "abcd"),
         "a field of the wrong type");
}

TEST(SentencePiece, DamagedFilesEndInAnErrorOrAWorkingTokenizer) {
  TempFolder folder;
  RandomStream draw({13});
  for (int round = 0; round < 300; ++round) {
    std::string bytes = bpe_model();
    if (round % 3 == 0) bytes.resize(draw.below(bytes.size()));
    for (uint64_t i = draw.below(20); i > 0 && !bytes.empty(); --i) bytes[draw.below(bytes.size())] = static_cast<char>(draw.below(256));
    write_file(folder / "tokenizer.model", bytes);
    try {
      const auto tokenizer = load_tokenizer(folder.path());
      tokenizer->decode(tokenizer->encode("The cat \u4F60 <s> 1"));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage) << error.what();
    }
  }
}

}  // namespace
}  // namespace fusion
