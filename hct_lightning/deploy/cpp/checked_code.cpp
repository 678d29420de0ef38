// The program of a TorchScript archive: a list of calls of known operators, as hct_lightning/deploy/checked/code.py.
#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "checked.h"
#include "operators.h"  // kOperators, which CMake makes of checked/operators.txt

namespace checked {
namespace {

using Names = std::set<std::string, std::less<>>;

// torch takes a call in a call for several operators in a row; and lists the longer the slower.
constexpr int kMostOperators = 4000, kMostTokens = 2000;  // of a program, and of a line

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_word(char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_dotted(char c) { return is_word(c) || c == '.'; }

const Names& operators() {
  static const Names names(std::begin(kOperators), std::end(kOperators));
  return names;
}

bool is_value(std::string_view word) {
  return word == "None" || word == "True" || word == "False" || word == "inf" || word == "nan";
}

// What is left of a text, from which words are taken.
struct Cursor {
  std::string_view left;

  bool take(std::string_view word) {
    if (!left.starts_with(word)) return false;
    left.remove_prefix(word.size());
    return true;
  }
  template <typename Kind>
  std::string run(Kind kind) {
    size_t length = 0;
    while (length < left.size() && kind(left[length])) ++length;
    std::string found(left.substr(0, length));
    left.remove_prefix(length);
    return found;
  }
};

std::string target(const std::string& name) {
  const bool reserved = name == "torch" || name == "ops" || name == "CONSTANTS" || name == "self" || name == "__torch__";
  if (name.empty() || reserved || is_value(name) || operators().contains(name))
    throw Refused("its program gives " + name + " another meaning");
  return name;
}

// What may stand after what, a letter for each kind of token: o operator, v value, k key of an argument, = [ ( ] ) and ,
const char* following(char before) {
  switch (before) {
    case 'o': return "(";
    case 'k': return "=";
    case '=': return "vo[";
    case 'v': case ')': case ']': return ")],";
    default: return "vko([)]";
  }
}

char kind_of_word(const std::string& word, std::string_view left, const Names& known) {
  const bool called = left.starts_with('('), given = left.starts_with('=');
  const bool constant = word.starts_with("CONSTANTS.c") && word.size() < 21 && word.size() > 11 &&
                        word.find_first_not_of("0123456789", 11) == std::string::npos;
  if (called && operators().contains(word)) return 'o';
  if (given && operators().contains(word + "=")) return 'k';
  if (!called && !given && (known.contains(word) || is_value(word) || constant)) return 'v';
  throw Refused("its program names " + word.substr(0, 100) + ", which no known network needs");
}

char take_token(Cursor& text, const Names& known) {
  const char first = text.left.front();
  if (std::string_view("()[],=").find(first) != std::string_view::npos) {
    text.left.remove_prefix(1);
    return first;
  }
  if (text.take("\"")) {
    text.run([](char c) { return is_word(c) || std::string_view(" ,>.-").find(c) != std::string_view::npos; });
    if (text.take("\"")) return 'v';
  } else if (text.take("-inf") && (text.left.empty() || !is_dotted(text.left.front()))) {
    return 'v';
  } else if (is_digit(first) || first == '-') {
    text.take("-");
    bool whole = !text.run(is_digit).empty();
    if (text.take(".")) text.run(is_digit);
    if (text.take("e")) {
      if (!text.take("-")) text.take("+");
      whole = whole && !text.run(is_digit).empty();
    }
    if (whole && (text.left.empty() || !is_dotted(text.left.front()))) return 'v';
  } else if (is_word(first)) {
    const std::string word = text.run(is_dotted);
    if (word.find("..") == std::string::npos && !word.ends_with('.')) return kind_of_word(word, text.left, known);
  }
  throw Refused("its program has a text that no network needs");
}

void check_expression(Cursor text, const Names& known) {
  char before = '=';
  int depth = 0, tokens = 0;
  while (!text.left.empty()) {
    if (++tokens > kMostTokens) throw Refused("its program has a line of more than " + std::to_string(kMostTokens) + " words");
    if (text.take(" ")) continue;
    const char kind = take_token(text, known);
    depth += (kind == '(' || kind == '[') - (kind == ')' || kind == ']');
    if (std::string_view(following(before)).find(kind) == std::string_view::npos || depth < 0 || depth > 50)
      throw Refused("its program has a text that is no call");
    before = kind;
  }
  if ((before != 'v' && before != ')' && before != ']') || depth) throw Refused("its program has a text that is no call");
}

// torch reads keys behind their end where there are more values. Where all three are told to fit, it says what does not.
std::string fitted(std::string_view source) {
  constexpr std::string_view kAttention = "torch.scaled_dot_product_attention";
  std::string found;
  for (size_t at; (at = source.find(kAttention)) != std::string_view::npos;) {
    Cursor text{source.substr(at + kAttention.size())};
    std::string q, k, v, mask;
    const bool three = text.take("(") && !(q = text.run(is_word)).empty() && text.take(", ") &&
                       !(k = text.run(is_word)).empty() && text.take(", ") && !(v = text.run(is_word)).empty();
    if (text.take(", ")) mask = text.run(is_dotted);
    const bool constant = mask.starts_with("CONSTANTS.c") && mask.find('.', 11) == std::string::npos;
    if (!three || !text.take(")") || (mask.find('.') != std::string::npos && !constant))
      throw Refused("its program names " + std::string(kAttention) + " of other values than known networks do");
    const std::string of_q = "[torch.size(" + q + ", 0), torch.size(" + q + ", 1), ", of_k = "torch.size(" + k + ", 2)";
    found.append(source.substr(0, at)).append(kAttention);
    found += "(" + q + ", torch.expand(" + k + ", " + of_q + "-1, -1]), torch.expand(" + v + ", " + of_q + of_k + ", -1])";
    if (!mask.empty()) found += ", torch.expand(" + mask + ", " + of_q + "torch.size(" + q + ", 2), " + of_k + "])";
    found += ")";
    source = text.left;
  }
  return found.append(source);
}

}  // namespace

Code check_code(std::string_view source, const std::string& module) {
  Cursor text{source};
  std::string name, type, image;
  const bool head = text.take("class ") && !(name = text.run(is_word)).empty() &&
                    text.take("(Module):\n  __parameters__ = []\n  __buffers__ = []\n  def forward(self: ") &&
                    !(type = text.run(is_dotted)).empty() && text.take(",\n    ") &&
                    !(image = text.run(is_word)).empty() && text.take(": Tensor) -> Tensor:\n");
  if (!head || type != module + "." + name) throw Refused("its program is no network that was traced and frozen");
  Names known{target(image)};
  if (text.left.ends_with('\n')) text.left.remove_suffix(1);
  for (bool more = true; more;) {
    const size_t end = text.left.find('\n');
    more = end != std::string_view::npos;
    Cursor line{text.left.substr(0, end)};
    text.left.remove_prefix(more ? end + 1 : text.left.size());
    if (!line.take("    ")) throw Refused("its program has a line that is no call");
    std::vector<std::string> made;
    if (!line.take("return ")) {
      do made.push_back(target(line.run(is_word)));
      while (!line.left.starts_with(", = ") && line.take(", "));
      line.take(",");  // after the last of several
      if (!line.take(" = ")) throw Refused("its program has a line that is no call");
    }
    if (line.left.empty()) throw Refused("its program has a line that is no call");
    check_expression(line, known);
    known.insert(made.begin(), made.end());
  }
  if (std::count(source.begin(), source.end(), '(') > kMostOperators)
    throw Refused("its program has more than " + std::to_string(kMostOperators) + " operators");
  return {type, fitted(source)};
}

}  // namespace checked
