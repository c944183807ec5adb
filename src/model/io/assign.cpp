#include "fusion/model/io/assign.h"

#include "fusion/base/error.h"

namespace fusion {

void assign_weights(FusionModel& model, const Weights& weights) {
  constexpr size_t kListed = 8;
  std::vector<std::string> wrong;
  for (const Parameter& parameter : model.parameters().all()) {
    if (!weights.contains(parameter.name)) {
      wrong.push_back(fmt::format("{} is missing", parameter.name));
    } else if (const auto spec = weights.spec(parameter.name); spec.shape != parameter.shape) {
      wrong.push_back(fmt::format("{} has shape {} instead of {}", parameter.name, shape_text(spec.shape), shape_text(parameter.shape)));
    }
  }
  for (const auto& [name, file] : weights.names())
    if (!model.parameters().find(name)) wrong.push_back(fmt::format("{} is not a parameter of this model", name_text(name)));
  if (!wrong.empty()) {
    const auto shown = std::min(wrong.size(), kListed);
    fail(ExitCode::data, "model: the weights in {} do not fit the config: {}{}", weights.folder().string(), fmt::join(wrong.begin(), wrong.begin() + shown, "; "),
         wrong.size() > shown ? fmt::format("; and {} more", wrong.size() - shown) : "");
  }
  for (Parameter& parameter : model.parameters().all()) model.parameters().assign(parameter, weights.tensor(parameter.name));
}

}  // namespace fusion
