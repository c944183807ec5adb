// docs/keys.md says what the code says. To write it anew: FUSION_WRITE_DOCS=1 config_test --gtest_filter='Describe.*'
#include "folder.h"
#include "fusion/config/schema.h"

namespace fusion {
namespace {

using test::usage_error;
using testing::HasSubstr;
using testing::Not;

const char* kIntroduction = R"(# Keys

Every key of a config: type and check, default, meaning. This page is made from the code (`fusion help keys [prefix]` prints the same) and a test compares the two.

Beside these keys a file may hold

- `defaults`: a list of YAML files to start from, relative to the file;
- `stages`: a list of `{name: ..., sections}`; the stages run one after another, each is the rest of the file with its own keys on top;
- `vars`: free names for `${vars.x}`;
- `resolved: true`: written into the print of a whole config; its values count as a preset's, so keys without effect may stand in it.

A path in a file is relative to that file, on the command line to the working folder.

```text
)";

TEST(Describe, TheDocumentIsMadeFromTheSchema) {
  const fs::path file = FUSION_SOURCE_DIR "/docs/keys.md";
  const std::string made = kIntroduction + describe_keys("") + "```\n";
  if (std::getenv("FUSION_WRITE_DOCS")) std::ofstream(file) << made;
  EXPECT_EQ(read_file(file), made) << "Run FUSION_WRITE_DOCS=1 config_test --gtest_filter='Describe.*'";
}

TEST(Describe, EveryKeyHasABlockAndAHelp) {
  Config config;
  const Schema schema(config);
  const std::string all = "\n" + describe_keys("");
  EXPECT_GT(schema.fields().size(), 100u);
  for (const Field& field : schema.fields()) {
    EXPECT_THAT(all, HasSubstr("\n" + field.key + ": ")) << field.key;
    EXPECT_TRUE(field.help.ends_with(".") && field.help.size() > 5) << field.key << ": " << field.help;
  }
  for (const SectionHelp& section : schema.sections()) EXPECT_TRUE(section.help.ends_with(".")) << section.key;
}

TEST(Describe, Prefixes) {
  const std::string card = describe_keys("card");
  EXPECT_THAT(card,
              HasSubstr("card.query_lens: list of integers, positive\n    default [4, 16, 36, 64, 144] (profile paper: [4, 16, 64, 144, 256])\n"));
  EXPECT_THAT(card, HasSubstr("card.pool: max|interpolate\n    default max (profile paper: interpolate)\n"));
  EXPECT_THAT(card, Not(HasSubstr("train.")));
  EXPECT_THAT(describe_keys("train.recompute.vision"), HasSubstr("train.recompute.vision: none|norms|full"));
  EXPECT_THAT(describe_keys("train.rules"), HasSubstr("train.rules.N.lr: number, at least -1"));
  EXPECT_THAT(describe_keys("model"), HasSubstr("model.path: path\n    default \"\"\n"));
  EXPECT_THAT(usage_error([] { describe_keys("crad"); }), HasSubstr("did you mean 'card'"));
  EXPECT_THAT(usage_error([] { describe_keys("car"); }), HasSubstr("did you mean 'card'"));
}

}  // namespace
}  // namespace fusion
