// Text and bytes inside an HTML page.
#pragma once

#include <string>
#include <string_view>

namespace fusion {

/// `text` between tags and in attributes of HTML and SVG; control characters are left out.
std::string escape_html(std::string_view text);

/// For data: URLs.
std::string base64(std::string_view bytes);

}  // namespace fusion
