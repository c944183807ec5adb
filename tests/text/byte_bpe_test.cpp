#include "errors.h"
#include "fusion/text/nfc.h"
#include "shared_data.h"
#include "temp_folder.h"
#include "text_tools.h"

#include <utf8proc.h>

#include <algorithm>
#include <memory>

namespace fusion {
namespace {

using test::TempFolder;

std::shared_ptr<const Tokenizer> load(const TempFolder& folder, const Json& tokenizer = test::tiny_bpe_json(),
                                      const Json& config = test::tiny_bpe_config()) {
  test::write_bpe_folder(folder.path(), tokenizer, config);
  return load_tokenizer(folder.path());
}

TEST(ByteBpe, MergesPiecesAndPutsBosInFront) {
  TempFolder folder;
  const auto tokenizer = load(folder);
  const auto id = [&](const char* token) { return tokenizer->token_id(token).value(); };
  const int64_t bos = id("<|begin_of_text|>");
  EXPECT_EQ(tokenizer->encode(""), Ids{bos});
  EXPECT_EQ(tokenizer->encode("the cat", false), (Ids{id("the"), id("\u0120"), id("cat")}));  // "ca" comes before " c"
  EXPECT_EQ(tokenizer->encode("catalogue", false), Ids{id("catalogue")});
  EXPECT_EQ(tokenizer->encode("1234", false), (Ids{id("123"), id("4")}));
  EXPECT_EQ(tokenizer->encode("a<|eot_id|>\n\nb"), (Ids{bos, id("a"), id("<|eot_id|>"), id("\u010A\u010A"), id("b")}));
  EXPECT_EQ(tokenizer->encode("\u00E9", false), Ids{id("\u00C3\u00A9")});
  std::vector<int64_t> begins;
  tokenizer->encode("the<|eot_id|> th", true, &begins);
  EXPECT_EQ(begins, (std::vector<int64_t>{0, 0, 3, 13, 14}));
  EXPECT_EQ(tokenizer->size(), 271 + 6 + 2);
  EXPECT_EQ(tokenizer->pad_id(), id("<|reserved_special_token_0|>"));
  EXPECT_EQ(tokenizer->eos_id(), id("<|eot_id|>"));
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->token_id("nonsense"), std::nullopt);
}

TEST(ByteBpe, FollowsTheFilesFlags) {
  TempFolder folder;
  Json json = test::tiny_bpe_json();
  json["model"]["ignore_merges"] = false;
  json["post_processor"] = nullptr;
  const auto tokenizer = load(folder, json);
  EXPECT_GT(tokenizer->encode("catalogue").size(), 1u);
  EXPECT_EQ(tokenizer->encode(""), Ids{});
  EXPECT_FALSE(tokenizer->adds_bos());
  Json config = test::tiny_bpe_config();
  config["clean_up_tokenization_spaces"] = true;
  const auto cleaning = load(folder, json, config);
  EXPECT_EQ(cleaning->decode(cleaning->encode("Yes . I do n't ; you 're ' right ' !")),
            "Yes. I don't ; you're'right '!");  // " !" goes before " ' " could
  EXPECT_NE(cleaning->digest(), tokenizer->digest());
}

TEST(ByteBpe, NormalisesWhereTheFileSaysSo) {
  TempFolder folder;
  Json json = test::tiny_bpe_json();
  json["normalizer"] = {{"type", "NFC"}};
  const auto tokenizer = load(folder, json);
  std::vector<int64_t> begins;
  const std::string text = "a\u0301e\u0301\u0301<|eot_id|>the e\u0301";
  const Ids ids = tokenizer->encode(text, false, &begins);
  EXPECT_EQ(tokenizer->decode(ids), "\u00E1\u00E9\u0301<|eot_id|>the \u00E9");
  EXPECT_EQ(ids.back(), tokenizer->token_id("\u00C3\u00A9"));
  const auto begin_of = [&](const char* token) {
    return begins[static_cast<size_t>(std::find(ids.begin(), ids.end(), *tokenizer->token_id(token)) - ids.begin())];
  };
  EXPECT_EQ(begin_of("<|eot_id|>"), static_cast<int64_t>(text.find("<|eot_id|>")));
  EXPECT_EQ(begin_of("the"), static_cast<int64_t>(text.find("the")));
  EXPECT_EQ(begins.back(), static_cast<int64_t>(text.find("e\u0301", text.find("the"))));
  EXPECT_NE(load(folder)->digest(), tokenizer->digest());
}

/// Cut into runs and normalised one by one = normalised as a whole.
TEST(Nfc, RunsAreIndependent) {
  RandomStream draw({15});
  for (int round = 0; round < 2000; ++round) {
    const std::string text = test::random_text(draw, draw.below(20)) + "\u1100\u1161e\u0323\u0301\u212B";
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> whole(utf8proc_NFC(reinterpret_cast<const utf8proc_uint8_t*>(text.c_str())),
                                                                        &std::free);
    const NormalizedText ours = normalize_nfc(text);
    ASSERT_EQ(ours.text, reinterpret_cast<const char*>(whole.get()));
    ASSERT_EQ(ours.text.size(), ours.source.size());
    ASSERT_TRUE(std::is_sorted(ours.source.begin(), ours.source.end()));
    for (size_t i = 0; i < ours.text.size(); ++i)
      if (static_cast<unsigned char>(ours.text[i]) < 0x80 && ours.text[i] != text[ours.source[i]]) FAIL() << text << " at " << i;
  }
}

TEST(ByteBpe, DecodesWhatItEncodes) {
  TempFolder folder;
  const auto tokenizer = load(folder);
  RandomStream draw({8});
  for (int round = 0; round < 1500; ++round) {
    const std::string text = test::random_text(draw, draw.below(40));
    ASSERT_EQ(tokenizer->decode(tokenizer->encode(text), true), text);
  }
}

TEST(ByteBpe, DecodesAnyIds) {
  TempFolder folder;
  const auto tokenizer = load(folder);
  EXPECT_EQ(tokenizer->decode({0xE4, 0xBD, 'z', *tokenizer->token_id("<|eot_id|>"), -200, 99999}), "\uFFFDz<|eot_id|>");
  EXPECT_EQ(tokenizer->decode({*tokenizer->token_id("<vision_start>"), 'z'}, true), "z");
}

TEST(ByteBpe, SavedFolderIsTheSameTokenizer) {
  for (const bool pairs : {false, true}) {
    TempFolder folder, copy;
    Json json = test::tiny_bpe_json();
    if (pairs)
      for (Json& merge : json["model"]["merges"]) {
        const auto text = merge.get<std::string>();
        merge = Json::array({text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1)});
      }
    const auto tokenizer = load(folder, json);
    tokenizer->save(copy.path());
    const auto again = load_tokenizer(copy.path());
    EXPECT_EQ(again->digest(), tokenizer->digest());
    EXPECT_EQ(again->token_id("<vision_end>"), tokenizer->token_id("<vision_end>"));
    const Json saved = read_json(copy / "tokenizer.json");
    EXPECT_EQ(saved["model"], json["model"]);
    EXPECT_EQ(saved["pre_tokenizer"], json["pre_tokenizer"]);
    EXPECT_EQ(saved["added_tokens"].size(), json["added_tokens"].size() + 2);
    EXPECT_EQ(read_json(copy / "tokenizer_config.json")["unk_token"], "<|reserved_special_token_0|>");
    RandomStream draw({9});
    for (int round = 0; round < 50; ++round) {
      const std::string text = test::random_text(draw, 20) + "<vision_start>";
      ASSERT_EQ(again->encode(text), tokenizer->encode(text));
    }
  }
}

TEST(ByteBpe, RefusesWhatItCannotFollow) {
  TempFolder folder;
  const auto expect = [&](auto change, const char* part) {
    Json json = test::tiny_bpe_json();
    change(json);
    EXPECT_FAILS(load(folder, json), ExitCode::usage, part);
  };
  expect([](Json& j) { j["model"]["type"] = "WordPiece"; }, "model.type \"WordPiece\" is not supported");
  expect([](Json& j) { j["model"]["byte_fallback"] = true; }, "a SentencePiece vocabulary");
  expect([](Json& j) { j["model"]["dropout"] = 0.1; }, "model.dropout");
  expect([](Json& j) { j["normalizer"] = {{"type", "NFKC"}}; }, "normalizer NFKC");
  expect([](Json& j) { j["decoder"] = nullptr; }, "decoder");
  expect([](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+)+$"; }, "the pre_tokenizer's pattern");
  expect([](Json& j) { j["pre_tokenizer"] = j["decoder"]; }, "pre_tokenizer");
  expect([](Json& j) { j["post_processor"] = {{"type", "RobertaProcessing"}}; }, "post_processor");
  expect([](Json& j) { j["post_processor"]["processors"][1]["single"][0]["SpecialToken"]["id"] = "<none>"; }, "'<none>' is no added token");
  expect([](Json& j) { j["model"]["vocab"]["x y"] = 271; }, "no byte-level text");
  expect([](Json& j) { j["model"]["vocab"]["the"] = 3; }, "ids must be 0 to");
  expect([](Json& j) { j["model"]["vocab"]["the"] = -1; }, "must be a whole number from 0");
  expect([](Json& j) { j["model"]["vocab"]["the"] = 1e9; }, "must be a whole number from 0");
  expect([](Json& j) { j["model"]["merges"][0] = "q q"; }, "makes no vocabulary entry");
  expect([](Json& j) { j["model"]["merges"][0] = "qqq"; }, "is no vocabulary entry");
  expect([](Json& j) { j["model"]["merges"][0] = 7; }, "is no vocabulary entry");
  expect([](Json& j) { j["model"]["merges"][1] = j["model"]["merges"][0]; }, "occurs twice");
  expect([](Json& j) { j["added_tokens"][0]["lstrip"] = true; }, "lstrip of the added token");
  expect([](Json& j) { j["added_tokens"][0]["id"] = 5; }, "gives that id to another entry");
  expect([](Json& j) { j["added_tokens"][0]["id"] = 99; }, "gives that id to another entry");
  expect([](Json& j) { j["added_tokens"][5]["id"] = 300; }, "without gaps");
  expect([](Json& j) { j["model"].erase("vocab"); }, "model.vocab and model.merges are needed");
  expect([](Json& j) { j = Json::array(); }, "an object with a 'model' is needed");
  Json config = test::tiny_bpe_config();
  config["eos_token"] = nullptr;
  EXPECT_FAILS(load(folder, test::tiny_bpe_json(), config), ExitCode::usage, "no 'eos_token'");
}

TEST(ByteBpe, DamagedFilesEndInAnErrorOrAWorkingTokenizer) {
  TempFolder folder;
  const std::string good = dump_json(test::tiny_bpe_json());
  test::write_bpe_folder(folder.path(), test::tiny_bpe_json(), test::tiny_bpe_config());
  RandomStream draw({14});
  for (int round = 0; round < 300; ++round) {
    std::string bytes = good;
    if (round % 3 == 0) bytes.resize(draw.below(bytes.size()));
    for (uint64_t i = draw.below(6); i > 0 && !bytes.empty(); --i) bytes[draw.below(bytes.size())] = static_cast<char>(draw.below(256));
    write_file(folder / "tokenizer.json", bytes);
    try {
      const auto tokenizer = load_tokenizer(folder.path());
      tokenizer->decode(tokenizer->encode("the cat \u4F60 <|eot_id|> 1"));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage) << error.what();
    }
  }
}

}  // namespace
}  // namespace fusion
