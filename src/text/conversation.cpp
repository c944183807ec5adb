#include "fusion/text/conversation.h"

#include "fusion/base/error.h"
#include "fusion/text/unicode.h"

#include <algorithm>

namespace fusion {
namespace {

constexpr std::string_view kImageMark = "<image>", kLatentMark = "<latent_image>";
constexpr std::string_view kMarkedImage = "<vision_start><image><vision_end>", kMarkedLatent = "<vision_start><latent_image><vision_end>";

bool holds_image(std::string_view text) { return text.find(kImageMark) != std::string_view::npos; }

/// data.md 2: one marked picture at the front of a turn that holds any.
std::string normalise(std::string_view text) {
  if (!holds_image(text)) return std::string(text);
  const std::string bare = replace_all(text, kImageMark, "");
  const std::string front = std::string(kImageMark) + '\n' + std::string(strip(bare));
  return replace_all(strip(front), kImageMark, kMarkedImage);
}

/// data.md 3: the text that guides the tower, without picture marks.
std::string without_marks(std::string text) {
  for (const std::string_view mark : {kImageMark, std::string_view("<vision_start>"), std::string_view("<vision_end>")})
    if (text.find(mark) != std::string::npos) text = replace_all(text, mark, "");
  return text;
}

/// A prompt as text, and where its answers (separator included) lie; an open question ends the text and has no answer.
struct Rendered {
  struct Answer {
    size_t begin, end;
  };
  std::string text;
  std::vector<Answer> answers;
  bool open = false;
  size_t question_end = 0;  // of the last question's text
};

Rendered render(const std::vector<Turn>& turns, const ChatTemplate& strings, bool latents) {
  Rendered out;
  out.text = strings.system;
  for (const Turn& turn : turns) {
    if (turn.from == "human") {
      out.text += strings.user;
      if (latents) out.text += kMarkedLatent;
      out.text.append(turn.value);
      out.question_end = out.text.size();
      out.text.append(strings.user_end).append(strings.assistant);
      out.open = true;
    } else {
      const size_t begin = out.text.size();
      out.text.append(strings.answer_lead).append(turn.value).append(strings.answer_end);
      out.answers.push_back({begin, out.text.size()});
      out.text += strings.after;
      out.open = false;
    }
  }
  return out;
}

/// Writes ids and labels token by token. A token is supervised when it begins inside an answer; the one before an answer is the question end.
class Emitter {
 public:
  Emitter(const Rendered& rendered, bool supervise) : rendered_(rendered), supervise_(supervise) {}

  void put(int64_t id, size_t begin) {
    const auto& answers = rendered_.answers;
    if (answer_ < answers.size() && !in_answer_ && begin >= answers[answer_].begin) end_question(), in_answer_ = true;
    if (in_answer_ && begin >= answers[answer_].end) end_answer();
    const bool supervised = in_answer_ && supervise_;
    out_.input_ids.push_back(id);
    out_.labels.push_back(supervised ? id : kIgnore);
    if (rendered_.open) out_.begins.push_back(static_cast<int64_t>(begin));
    out_.images += id == kImage;
    out_.supervised += supervised && id >= 0;
  }

  EncodedConversation finish() {
    if (in_answer_) end_answer();
    if (rendered_.open) end_question();
    return std::move(out_);
  }

 private:
  void end_question() { out_.labels.back() = kInstruct; }
  void end_answer() {
    out_.turn_ends.push_back(static_cast<int64_t>(out_.input_ids.size()));
    in_answer_ = false;
    ++answer_;
  }

  const Rendered& rendered_;
  const bool supervise_;
  size_t answer_ = 0;
  bool in_answer_ = false;
  EncodedConversation out_;
};

/// Tokenises the text between placeholders piece by piece. The released code splits at pictures, then at latents, and at each level drops the first
/// id of later pieces when the first piece begins with bos, be it the class's own or one that the text holds.
EncodedConversation emit(const Rendered& rendered, const Tokenizer& tokenizer, bool latents, bool supervise) {
  Emitter emitter(rendered, supervise);
  const std::string_view text = rendered.text;
  std::vector<int64_t> begins;
  bool drop_at_image = false, drop_at_latent = false, after_image = false;
  for (size_t at = 0;;) {
    const size_t image = text.find(kImageMark, at), latent = latents ? text.find(kLatentMark, at) : std::string_view::npos;
    const size_t end = std::min({image, latent, text.size()});
    const Ids ids = tokenizer.encode(text.substr(at, end - at), true, &begins);
    const bool starts_with_bos = !ids.empty() && ids[0] == tokenizer.bos_id();
    const bool drop = at > 0 && (after_image ? drop_at_image : drop_at_latent);
    if (at == 0) drop_at_image = starts_with_bos;
    if (at == 0 || after_image) drop_at_latent = starts_with_bos;
    for (size_t i = drop ? 1 : 0; i < ids.size(); ++i) emitter.put(ids[i], at + static_cast<size_t>(begins[i]));
    if (end == text.size()) return emitter.finish();
    after_image = end == image;
    emitter.put(after_image ? kImage : kLatent, end);
    at = end + (after_image ? kImageMark : kLatentMark).size();
  }
}

/// The turns that count: one leading answer is dropped (data.md 1).
std::vector<Turn> checked_turns(const std::vector<Turn>& turns, const EncodeOptions& options) {
  const size_t skipped = !turns.empty() && turns[0].from == "gpt" ? 1 : 0;
  std::vector<Turn> kept(turns.begin() + static_cast<ptrdiff_t>(skipped), turns.end());
  int64_t images = 0;
  for (size_t i = 0; i < kept.size(); ++i) {
    const char* expected = i % 2 == 0 ? "human" : "gpt";
    if (kept[i].from != expected) fail(ExitCode::data, "roles: turn {} is '{}', expected '{}'", i + skipped, kept[i].from, expected);
    if (kept[i].value.empty()) fail(ExitCode::data, "empty_turn: turn {} ({}) has no text", i + skipped, expected);
    require_utf8(kept[i].value);
    for (size_t at = 0; (at = kept[i].value.find(kImageMark, at)) != std::string::npos; at += kImageMark.size()) ++images;
  }
  if (!options.collapse_images && images != (options.has_image ? 1 : 0))
    fail(ExitCode::data, "images: {} <image> marks for {} picture(s); data.collapse_images=true takes them as the released code does", images,
         options.has_image ? 1 : 0);
  return kept;
}

}  // namespace

ConversationEncoder::ConversationEncoder(std::shared_ptr<const Tokenizer> tokenizer, Template name)
    : tokenizer_(std::move(tokenizer)), template_(chat_template(name)) {
  FUSION_CHECK(
      tokenizer_->token_id(template_.answer_end),
      "text: the tokenizer has no token '{}', which ends the answers of the chat template; choose the template (model.template) of this tokenizer",
      template_.answer_end);
}

EncodedConversation ConversationEncoder::encode(const std::vector<Turn>& turns, const EncodeOptions& options) const {
  std::vector<Turn> kept = checked_turns(turns, options);
  if (kept.empty() || kept.size() % 2 != 0) fail(ExitCode::data, "no_answer: the conversation has {} turns, it must end with an answer", kept.size());
  std::string instruct;
  for (size_t i = 0; i < kept.size(); ++i) {
    if (options.has_image) kept[i].value = normalise(kept[i].value);
    if (i % 2 == 0) instruct += strip(without_marks(kept[i].value));
  }
  EncodedConversation out = emit(render(kept, template_, options.latents), *tokenizer_, options.latents, true);
  out.instruct = options.has_image ? tokenizer_->encode(instruct) : Ids{0};
  return out;
}

EncodedConversation ConversationEncoder::prompt(const std::vector<Turn>& turns, const EncodeOptions& options) const {
  std::vector<Turn> kept = checked_turns(turns, options);
  if (kept.size() % 2 == 0) fail(ExitCode::data, "no_question: the conversation has {} turns, a prompt must end with a question", kept.size());
  std::string typed;
  for (size_t i = 0; i < kept.size(); i += 2) typed += kept[i].value;
  size_t question = kept.back().value.size();
  if (options.has_image) {
    const bool marked = !options.typed && std::any_of(kept.begin(), kept.end(), [](const Turn& turn) { return holds_image(turn.value); });
    if (marked)
      for (Turn& turn : kept) turn.value = normalise(turn.value), question = turn.value.size();
    else
      kept[0].value = std::string(kMarkedImage) + '\n' + kept[0].value;
  }
  const Rendered rendered = render(kept, template_, options.latents);
  EncodedConversation out = emit(rendered, *tokenizer_, options.latents, false);
  for (int64_t& begin : out.begins) begin -= static_cast<int64_t>(rendered.question_end - question);
  out.instruct = options.has_image ? tokenizer_->encode(strip(without_marks(std::move(typed)))) : Ids{0};
  return out;
}

std::vector<int64_t> ConversationEncoder::stop_ids() const {
  std::vector<int64_t> ids = {*tokenizer_->token_id(template_.answer_end)};
  if (tokenizer_->eos_id() != ids[0]) ids.push_back(tokenizer_->eos_id());
  return ids;
}

std::string ConversationEncoder::answer_text(const Ids& ids) const {
  const std::vector<int64_t> stops = stop_ids();
  const auto end = std::find_first_of(ids.begin(), ids.end(), stops.begin(), stops.end());
  return std::string(strip(tokenizer_->decode(Ids(ids.begin(), end))));
}

}  // namespace fusion
