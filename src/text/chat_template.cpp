#include "fusion/text/chat_template.h"

#include "fusion/base/error.h"

namespace fusion {
namespace {

constexpr ChatTemplate kPhi3{.system = "<|system|>\nYou are a helpful AI assistant.<|end|>",
                             .user = "\n<|user|>\n",
                             .user_end = "<|end|>",
                             .assistant = "\n<|assistant|>\n",
                             .answer_lead = "",
                             .answer_end = "<|end|>",
                             .after = ""};

constexpr ChatTemplate kLlama3{
    .system =
        "<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful, highly intelligent language and vision assistant. You are able to "
        "understand the visual content that the user provides, and assist the user with a variety of tasks using natural language. Whenever an "
        "image is present in the conversation, very carefully examine it and consider its content when formulating your response.<|eot_id|>",
    .user = "<|start_header_id|>user<|end_header_id|>\n\n",
    .user_end = "<|eot_id|>",
    .assistant = "<|start_header_id|>assistant<|end_header_id|>\n\n",
    .answer_lead = "",
    .answer_end = "<|eot_id|>",
    .after = ""};

constexpr ChatTemplate kVicuna{.system =
                                   "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
                                   "and polite answers to the user's questions. ",
                               .user = "USER: ",
                               .user_end = " ",
                               .assistant = "ASSISTANT:",
                               .answer_lead = " ",
                               .answer_end = "</s>",
                               .after = ""};

constexpr ChatTemplate kQwen2{.system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
                              .user = "<|im_start|>user\n",
                              .user_end = "<|im_end|>\n",
                              .assistant = "<|im_start|>assistant\n",
                              .answer_lead = "",
                              .answer_end = "<|im_end|>",
                              .after = "\n"};

}  // namespace

const ChatTemplate& chat_template(Template name) {
  switch (name) {
    case Template::phi_3:
      return kPhi3;
    case Template::llama_3:
      return kLlama3;
    case Template::vicuna_v1:
      return kVicuna;
    case Template::qwen_2:
      return kQwen2;
  }
  fail(ExitCode::failure, "text: template {} has no strings", static_cast<int>(name));
}

}  // namespace fusion
