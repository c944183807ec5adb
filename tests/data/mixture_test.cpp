#include "fusion/data/mixture.h"

#include "errors.h"
#include "fusion/base/json.h"
#include "shared_data.h"
#include "temp_folder.h"

#include <set>

namespace fusion {
namespace {

using test::TempFolder;

std::vector<std::string> ids(const Mixture& mixture) {
  std::vector<std::string> out;
  for (int64_t i = 0; i < mixture.size(); ++i) out.push_back(mixture.sample(i).id);
  return out;
}

/// n rows with ids <name>0 ...; every second one has a picture.
void write_rows(const fs::path& path, const std::string& name, int n) {
  Json rows = Json::array();
  for (int i = 0; i < n; ++i) {
    rows.push_back({{"id", name + std::to_string(i)}, {"conversations", {{{"from", "human"}, {"value", "q r"}}, {{"from", "gpt"}, {"value", "a"}}}}});
    if (i % 2) rows.back()["image"] = "p.jpg";
  }
  write_file(path, rows.dump(), Sync::no);
}

TEST(Mixture, MatchesTheReference) {
  const auto folder = test::shared_data("golden/text/mixture");
  if (!folder) GTEST_SKIP() << "no reference data (shared/golden/text/mixture)";
  // Released oddities that are errors here (data.md 1).
  const std::set<std::string> errors = {"end_zero", "end_zero_percent", "no_number",   "unknown_word",
                                        "negative", "fraction_percent", "blank_lines", "text_file"};
  int compared = 0;
  const Json golden = read_json(*folder / "expected.json");
  for (const auto& [name, expected] : golden.items()) {
    const bool plain = expected.contains("path");
    const fs::path path = *folder / (plain ? expected["path"].get<std::string>() : name + ".yaml");
    if (errors.contains(name)) {
      EXPECT_THROW(Mixture(path, "", 0), Error) << name;
    } else if (name == "random_seed0") {
      EXPECT_EQ(Mixture(path, "", 0).size(), static_cast<int64_t>(expected["ids"].size()));
    } else if (name == "plain_jsonl") {  // released: only inside a YAML
      EXPECT_EQ(Mixture(path, "", 0).size(), 13);
    } else {
      EXPECT_EQ(ids(Mixture(path, "", 0)), expected["ids"].get<std::vector<std::string>>()) << name;
    }
    ++compared;
  }
  EXPECT_GT(compared, 15);
}

TEST(Mixture, RandomIsASeededSubset) {
  TempFolder folder;
  write_rows(folder / "a.json", "a", 50);
  write_file(folder / "m.yaml",
             "datasets:\n- {json_path: a.json, sampling_strategy: 'random:30%'}\n- {json_path: a.json, sampling_strategy: 'random:15'}\n");
  const auto first = ids(Mixture(folder / "m.yaml", "", 1));
  ASSERT_EQ(first.size(), 30u);
  EXPECT_EQ(first, ids(Mixture(folder / "m.yaml", "", 1)));
  EXPECT_NE(first, ids(Mixture(folder / "m.yaml", "", 2)));
  EXPECT_NE(Mixture(folder / "m.yaml", "", 1).digest(), Mixture(folder / "m.yaml", "", 2).digest());
  EXPECT_NE(std::vector(first.begin(), first.begin() + 15), std::vector(first.begin() + 15, first.end()));  // each data set draws for itself
  EXPECT_EQ(std::set<std::string>(first.begin(), first.begin() + 15).size(), 15u);
}

TEST(Mixture, ExtrasOfADataSet) {
  TempFolder folder;
  make_directories(folder / "d");
  for (const char* name : {"x", "y"}) write_rows(folder / "d" / (std::string(name) + ".json"), name, 4);
  write_file(folder / "m.yaml",
             "datasets:\n"
             "- json_path: d/{x,y}.json\n"
             "  sampling_strategy: end:3\n"
             "  max_samples: 2\n"
             "- json_path: d/x.json\n"
             "  name: again\n"
             "  repeat: 2\n"
             "  image_folder: pictures\n"
             "  sampling_strategy: first:1\n"
             "- json_path: d/x.json\n"
             "  sampling_strategy: random:50%\n"
             "  max_samples: 1\n");
  const Mixture mixture(folder / "m.yaml", "", 0);
  auto found = ids(mixture);
  ASSERT_EQ(found.size(), 7u);
  found.pop_back();
  EXPECT_EQ(found, (std::vector<std::string>{"x1", "x2", "y1", "y2", "x0", "x0"}));
  EXPECT_EQ(mixture.sample(0).image, (folder / "d/p.jpg").string());
  EXPECT_EQ(mixture.sample(1).image, "");
  EXPECT_EQ(mixture.source(4), 2);
  ASSERT_EQ(mixture.sources().size(), 4u);
  EXPECT_EQ(mixture.sources()[1].name, "y");
  EXPECT_EQ(mixture.sources()[1].available, 4);
  EXPECT_EQ(mixture.sources()[2].name, "again");
  EXPECT_EQ(mixture.sources()[2].used, 2);
  EXPECT_EQ(mixture.modality_lengths(), (std::vector<int32_t>{3, -3, 3, -3, -3, -3, static_cast<int32_t>(mixture.modality_length(6))}));
  EXPECT_EQ(Mixture(folder / "m.yaml", "/pics", 0).sample(0).image, "/pics/p.jpg");
  EXPECT_EQ(Mixture(folder / "d/x.json", "", 0).sample(1).image, (folder / "d/p.jpg").string());
  EXPECT_EQ(Mixture((folder.path() / "d/{y,x}.json").string(), "", 0, 1).size(), 2);
  EXPECT_EQ(Mixture((folder.path() / "d/{y,x}.json").string(), "", 0).sample(0).id, "y0");
  EXPECT_FAILS(mixture.sample(7), ExitCode::failure, "sample 7 of a mixture of 7");
}

TEST(Mixture, FiltersComeBeforeTheStrategy) {
  TempFolder folder;
  write_rows(folder / "a.json", "a", 8);  // rows 1, 3, 5, 7 have a picture
  const auto taken = [&](const std::string& keys) {
    write_file(folder / "m.yaml", "datasets:\n- {json_path: a.json, " + keys + "}\n");
    return ids(Mixture(folder / "m.yaml", "", 0));
  };
  EXPECT_EQ(taken("filter: picture, sampling_strategy: 'first:50%'"), (std::vector<std::string>{"a1", "a3"}));
  EXPECT_EQ(taken("filter: text, sampling_strategy: 'end:1', repeat: 2"), (std::vector<std::string>{"a6", "a6"}));
  EXPECT_EQ(taken("filter: 'words<=2'"), (std::vector<std::string>{}));
  EXPECT_EQ(taken("filter: 'words>=3, picture,words<=3', max_samples: 3"), (std::vector<std::string>{"a1", "a3", "a5"}));
  const auto drawn = taken("filter: picture, sampling_strategy: 'random:3'");
  EXPECT_EQ(drawn.size(), 3u);
  for (const std::string& id : drawn) EXPECT_EQ((id[1] - '0') % 2, 1) << id;
  for (const char* wrong : {"pictures", "words", "words>=", "words<=-1", "words=3", "picture,,text", "picture, text"})
    EXPECT_FAILS(taken(std::string("filter: '") + wrong + "'"), ExitCode::usage, "m.yaml:2: filter '");
}

TEST(Mixture, WeightsShareOutThePlaces) {
  TempFolder folder;
  write_rows(folder / "a.json", "a", 10);
  write_rows(folder / "b.json", "b", 30);
  write_rows(folder / "c.json", "c", 20);
  const auto mixture = [&](const std::string& a, const std::string& b, const std::string& c) {
    write_file(folder / "m.yaml", "datasets:\n- {json_path: a.json" + a + "}\n- {json_path: b.json" + b + "}\n- {json_path: c.json" + c + "}\n");
    return Mixture(folder / "m.yaml", "", 5);
  };
  const Mixture shared = mixture(", weight: 3", ", weight: 2", ", weight: 1");
  ASSERT_EQ(shared.size(), 60);
  EXPECT_EQ(shared.sources()[0].used, 30);
  EXPECT_EQ(shared.sources()[1].used, 20);
  EXPECT_EQ(shared.sources()[2].used, 10);
  std::map<std::string, int> times;
  for (const std::string& id : ids(shared)) ++times[id];
  EXPECT_EQ(times.size(), 10u + 20 + 10);
  for (int row = 0; row < 10; ++row) EXPECT_EQ(times["a" + std::to_string(row)], 3);
  for (const auto& [id, count] : times) EXPECT_EQ(count, id[0] == 'a' ? 3 : 1) << id;
  EXPECT_EQ(ids(shared), ids(mixture(", weight: 0.75", ", weight: 0.5", ", weight: 0.25")));
  EXPECT_THAT(shared.table(), testing::HasSubstr("50.00%"));

  // Thirds of 60 and of 59: rounded so that nothing is lost, and rows come at most once more than others.
  for (const std::string limit : {"", ", max_samples: 9"}) {
    const Mixture thirds = mixture(", weight: 1" + limit, ", weight: 1", ", weight: 1");
    EXPECT_EQ(thirds.size(), limit.empty() ? 60 : 59);
    times.clear();
    for (const std::string& id : ids(thirds)) ++times[id];
    for (const SourceInfo& source : thirds.sources()) EXPECT_NEAR(static_cast<double>(source.used), static_cast<double>(thirds.size()) / 3, 1);
    for (const auto& [id, count] : times) EXPECT_NEAR(count, id[0] == 'a' ? 2 : 1, 1) << id;
  }
  EXPECT_NE(shared.digest(), mixture(", weight: 1", ", weight: 1", ", weight: 1").digest());
  EXPECT_FAILS(mixture(", weight: 1", "", ""), ExitCode::usage, "1 of 3 data sets have a weight");
  EXPECT_FAILS(mixture(", weight: 1, repeat: 2", ", weight: 1", ", weight: 1"), ExitCode::usage, "m.yaml:2: repeat has no effect beside weight");
  EXPECT_FAILS(mixture(", weight: 1, filter: 'words>=4'", ", weight: 1", ", weight: 1"), ExitCode::usage, "none of its rows");
  EXPECT_FAILS(mixture(", weight: -1", "", ""), ExitCode::usage, "datasets.0.weight");
}

TEST(Mixture, DigestFollowsContentNotPlace) {
  TempFolder folder, other;
  for (const auto* place : {&folder, &other}) {
    write_rows(*place / "a.json", "a", 9);
    write_file(*place / "m.yaml", "datasets:\n- json_path: a.json\n");
  }
  const std::string digest = Mixture(folder / "m.yaml", "", 0).digest();
  EXPECT_EQ(digest, Mixture(other / "m.yaml", "", 0).digest());
  write_rows(other / "a.json", "b", 9);
  EXPECT_NE(digest, Mixture(other / "m.yaml", "", 0).digest());
  write_file(folder / "m.yaml", "datasets:\n- {json_path: a.json, sampling_strategy: 'first:8'}\n");
  EXPECT_NE(digest, Mixture(folder / "m.yaml", "", 0).digest());
}

TEST(Mixture, ErrorsNameFileAndLine) {
  TempFolder folder;
  write_rows(folder / "a.json", "a", 3);
  auto open = [&](const std::string& text) {
    write_file(folder / "m.yaml", text);
    Mixture(folder / "m.yaml", "", 0);
  };
  EXPECT_FAILS(open("datasets:\n- json_pth: a.json\n"), ExitCode::usage, "m.yaml:2: 'datasets.0.json_pth'");
  EXPECT_FAILS(open("datasets:\n- json_path: a.json\n- {}\n"), ExitCode::usage, "m.yaml:3: datasets.1 has no json_path");
  EXPECT_FAILS(open("datasets:\n- json_path: b.json\n"), ExitCode::usage, "b.json: no such file");
  EXPECT_FAILS(open("datasets:\n- json_path: a.json\n  repeat: 0\n"), ExitCode::usage, "m.yaml:3: 'datasets.0.repeat'");
  EXPECT_FAILS(open("datasets:\n- json_path: [a.json]\n"), ExitCode::usage, "m.yaml:2: 'datasets.0.json_path'");
  EXPECT_FAILS(open("datasets: a.json\n"), ExitCode::usage, "m.yaml:1: 'datasets'");
  EXPECT_FAILS(open("dataset: []\n"), ExitCode::usage, "m.yaml:1: 'dataset'");
  EXPECT_FAILS(open("datasets:\n- &a {json_path: a.json}\n- *a\n"), ExitCode::usage, "alias");
  for (const char* strategy : {"first", "every:2", "first:", "first:x", "first:-1", "first:1.5%", "end:0", "random: ", "first:99999999999999999999"})
    EXPECT_FAILS(open(std::string("datasets:\n- {json_path: a.json, sampling_strategy: '") + strategy + "'}\n"), ExitCode::usage,
                 "sampling_strategy");
  EXPECT_FAILS(Mixture(folder / "none.yaml", "", 0), ExitCode::usage, "none.yaml");
}

}  // namespace
}  // namespace fusion
