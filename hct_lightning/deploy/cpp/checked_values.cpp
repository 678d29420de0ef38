// The pickles of a TorchScript archive: which values they make, and whether those are in bounds, as
// hct_lightning/deploy/checked/values.py. Nothing is unpickled.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "checked.h"

namespace checked {
namespace {

enum class Kind { kNone, kBool, kInt, kFloat, kText, kName, kTuple, kList, kMark, kStorage, kArray, kPacked };

struct Value {
  Kind kind = Kind::kNone;
  int64_t number = 0;                // of a bool or a number; of a memory: its items
  std::string text{};                // of a text or a name; of a memory and a tensor: the kind of its numbers
  std::vector<const Value*> items{}; // of a tuple or a list
  std::vector<int64_t> size{};       // of a tensor
  const std::string* content = nullptr;  // of a memory and a tensor
};

constexpr std::string_view kClasses = "__torch__.torch.classes.quantized ";
constexpr int64_t kMostSpatial = 1 << 12;  // of a packed convolution's stride, padding and dilation

int64_t size_of(const Value* value) {
  if (value->kind != Kind::kInt || value->number < 0) throw Refused("a size in its constants is none");
  return value->number;
}

bool is_name(const Value* value, std::string_view name) { return value->kind == Kind::kName && value->text == name; }
bool is_text(const Value* value, std::string_view text) { return value->kind == Kind::kText && value->text == text; }
bool is_array(const Value* value, std::string_view kind) { return value->kind == Kind::kArray && value->text == kind; }

std::vector<int64_t> sizes_of(const Value* value) {
  if (value->kind != Kind::kTuple) throw Refused("a size in its constants is none");
  std::vector<int64_t> sizes;
  for (const Value* item : value->items) sizes.push_back(size_of(item));
  return sizes;
}

// Tensor within a memory.
Value within(const Value* memory, const Value* offset, const Value* size, const Value* stride) {
  const auto sizes = sizes_of(size), steps = sizes_of(stride);
  const auto items = static_cast<unsigned __int128>(memory->number);
  if (sizes.size() != steps.size() || sizes.size() > 64) throw Refused("a tensor of it has no size");
  unsigned __int128 count = 1, last = size_of(offset);
  bool inside = last <= items;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) count = 0;
    if (steps[i] > std::max<int64_t>(memory->number, 1) || (!steps[i] && sizes[i] > 1))
      throw Refused("a tensor of it has another order than its memory");
  }
  for (size_t i = 0; count && inside && i < sizes.size(); ++i) {
    count *= sizes[i];
    last += static_cast<unsigned __int128>(sizes[i] - 1) * steps[i];
    inside = count <= items && last < (items << 1);
  }
  if (!inside || (count && last >= items)) throw Refused("a tensor of it lies out of its memory");
  return {.kind = Kind::kArray, .text = memory->text, .size = sizes, .content = memory->content};
}

bool without_gradient(const Value* gradient, const Value* hooks) {
  return gradient->kind == Kind::kBool && hooks->kind == Kind::kNone;
}

Value plain_tensor(const std::vector<const Value*>& given) {
  if (given[0]->kind != Kind::kStorage || given[0]->text.starts_with('Q') || !without_gradient(given[4], given[5]))
    throw Refused("a tensor of it is of another form than torch's");
  return within(given[0], given[1], given[2], given[3]);
}

Value quantized_tensor(const std::vector<const Value*>& given) {
  if (given[0]->kind != Kind::kStorage || given[0]->text != "QInt8" || given[4]->kind != Kind::kTuple ||
      !without_gradient(given[5], given[6]) || given[5]->number)
    throw Refused("a tensor of it is of another form than torch's");
  Value array = within(given[0], given[1], given[2], given[3]);
  const auto& scheme = given[4]->items;
  const bool whole = scheme.size() == 3 && is_name(scheme[0], "torch per_tensor_affine") &&
                     scheme[1]->kind == Kind::kFloat && scheme[2]->kind == Kind::kInt;
  const bool channels = scheme.size() == 4 && is_name(scheme[0], "torch per_channel_affine") &&
                        is_array(scheme[1], "Double") && is_array(scheme[2], "Long") &&
                        scheme[3]->kind == Kind::kInt && scheme[3]->number == 0 && !array.size.empty() &&
                        scheme[1]->size == std::vector<int64_t>{array.size[0]} && scheme[2]->size == scheme[1]->size;
  if (!whole && !channels) throw Refused("a tensor of it has other scales than channels");
  return array;
}

// Of numbers: 2 for two dimensions, stride, padding, dilation, output padding, groups, whether it is transposed.
void check_convolution(const std::string& content, const std::vector<int64_t>& size) {
  int16_t numbers[11];
  if (content.size() != sizeof numbers) throw Refused("a convolution in int8 of it has numbers that none has");
  std::memcpy(numbers, content.data(), sizeof numbers);
  bool fine = size.size() == 4 && *std::min_element(size.begin(), size.end()) > 0 && numbers[0] == 2 && !numbers[7] &&
              !numbers[8] && !numbers[10];
  for (const int i : {1, 2, 5, 6}) fine = fine && numbers[i] > 0 && numbers[i] <= kMostSpatial;
  for (const int i : {3, 4}) fine = fine && numbers[i] >= 0 && numbers[i] <= kMostSpatial;
  if (!fine || numbers[9] <= 0 || size[0] % numbers[9])
    throw Refused("a convolution in int8 of it has numbers that none has");
}

Value packed(std::string_view name, const std::vector<const Value*>& state) {
  const Value *weight = nullptr, *bias = nullptr;
  if (name == "LinearPackedParamsBase" && state.size() == 2) {
    weight = state[0], bias = state[1];
    if (weight->size.size() != 2) weight = nullptr;
  } else if (name == "Conv2dPackedParamsBase" && state.size() == 3 && is_text(state[0], "2") &&
             state[1]->kind == Kind::kTuple && state[1]->items.size() == 2 && state[2]->kind == Kind::kTuple &&
             state[2]->items.size() == 1 && is_array(state[1]->items[0], "Short")) {
    weight = state[1]->items[1], bias = state[2]->items[0];
    if (is_array(weight, "QInt8")) check_convolution(*state[1]->items[0]->content, weight->size);
  }
  if (!weight || !is_array(weight, "QInt8")) throw Refused("it has a layer in int8 of another form than torch's");
  if (bias->kind != Kind::kNone && !(is_array(bias, "Float") && bias->size == std::vector<int64_t>{weight->size[0]}))
    throw Refused("a layer in int8 of it has another bias than channels");
  return {.kind = Kind::kPacked};
}

// A list, which nothing is added to any more.
Value list_of(std::string_view name, const std::vector<const Value*>& given) {
  const bool optional = name == "restore_type_tag";
  const bool whole = given.size() == (optional ? 2 : 1) && given[0]->kind == Kind::kList &&
                     (!optional || is_text(given[1], "List[Optional[Tensor]]"));
  const auto right = [&](const Value* item) {
    return item->kind == (name == "build_intlist" ? Kind::kInt : Kind::kArray) || (optional && item->kind == Kind::kNone);
  };
  if (!whole || !std::all_of(given[0]->items.begin(), given[0]->items.end(), right))
    throw Refused("its constants have a list of another form than torch's");
  return {.kind = Kind::kTuple, .items = given[0]->items};
}

Value call(const Value* function, const Value* given, bool build) {
  if (function->kind != Kind::kName || given->kind != Kind::kTuple) throw Refused("its constants call what is no function");
  const std::string_view name = function->text;
  const size_t count = given->items.size();
  if (build != name.starts_with(kClasses))
    throw Refused("its program makes objects of C++ that no network needs: " + function->text.substr(0, 100));
  if (build) return packed(name.substr(kClasses.size()), given->items);
  if (name == "collections OrderedDict" && !count) return {};
  if (name == "torch._utils _rebuild_tensor_v2" && count == 6) return plain_tensor(given->items);
  if (name == "torch._utils _rebuild_qtensor" && count == 7) return quantized_tensor(given->items);
  for (const std::string_view list : {"build_intlist", "build_tensorlist", "restore_type_tag"})
    if (name == "torch.jit._pickle " + std::string(list)) return list_of(list, given->items);
  throw Refused("its constants call " + function->text.substr(0, 100) + ", which no known network needs");
}

class Machine {
 public:
  Machine(std::string_view pickled, const Parts& memories) : left_(pickled), memories_(memories) {
    for (const auto& [name, content] : memories) readable_ += 2 * content.size();
  }

  // The one value that the pickle makes.
  const Value* run() {
    if (bytes(2) != "\x80\x02") throw Refused("its constants are of another form than torch's");
    for (;;) {
      const char opcode = bytes(1)[0];
      if (opcode == '.') break;
      step(opcode);
    }
    if (stack_.size() != 1) throw Refused("its constants are damaged");
    return stack_[0];
  }

 private:
  std::string_view bytes(size_t count) {
    if (count > left_.size()) throw Refused("its constants have no end");
    const std::string_view found = left_.substr(0, count);
    left_.remove_prefix(count);
    return found;
  }
  template <typename Number>
  Number number() {
    Number found;
    std::memcpy(&found, bytes(sizeof found).data(), sizeof found);
    return found;
  }
  std::string line() {
    const std::string found(left_.substr(0, left_.find('\n')));
    bytes(found.size() + 1);
    return found;
  }
  void push(Value value) { stack_.push_back(&values_.emplace_back(std::move(value))); }
  const Value* pop() {
    const Value* top = stack_.empty() ? nullptr : stack_.back();
    if (!top || top->kind == Kind::kMark) throw Refused("its constants are damaged: a mark is taken for a value");
    stack_.pop_back();
    return top;
  }
  std::vector<const Value*> pop(size_t count) {
    std::vector<const Value*> found(count);
    for (size_t i = count; i-- > 0;) found[i] = pop();
    return found;
  }
  std::vector<const Value*> pop_to_mark() {
    std::vector<const Value*> found;
    while (!stack_.empty() && stack_.back()->kind != Kind::kMark) found.push_back(pop());
    if (stack_.empty()) throw Refused("its constants are damaged: they lack a mark");
    stack_.pop_back();
    std::reverse(found.begin(), found.end());
    return found;
  }
  void keep(size_t place) {
    // A list that is kept could be added to when it has been looked at.
    if (place != kept_.size() || stack_.empty() || stack_.back()->kind == Kind::kMark || stack_.back()->kind == Kind::kList)
      throw Refused("its constants keep a value in another way than torch does");
    kept_.push_back(stack_.back());
  }
  void fetch(size_t place) {
    if (place >= kept_.size()) throw Refused("its constants are damaged");
    stack_.push_back(kept_[place]);
  }
  void integer(int64_t value) { push({.kind = Kind::kInt, .number = value}); }

  void step(char opcode) {
    switch (opcode) {
      case 'N': return push({});
      case '\x88': return push({.kind = Kind::kBool, .number = 1});
      case '\x89': return push({.kind = Kind::kBool});
      case 'K': return integer(number<uint8_t>());
      case 'M': return integer(number<uint16_t>());
      case 'J': return integer(number<int32_t>());
      case '\x8a':
        if (number<uint8_t>() != 8) throw Refused("its constants have a number of another form than torch's");
        return integer(number<int64_t>());
      case 'G': return bytes(8), push({.kind = Kind::kFloat});
      case 'X': {
        const auto length = number<uint32_t>();
        return push({.kind = Kind::kText, .text = std::string(bytes(length))});
      }
      case 'c': {
        const std::string package = line();
        return push({.kind = Kind::kName, .text = package + " " + line()});
      }
      case '(': return push({.kind = Kind::kMark});
      case ')': return push({.kind = Kind::kTuple});
      case ']': return push({.kind = Kind::kList});
      case 'q': return keep(number<uint8_t>());
      case 'r': return keep(number<uint32_t>());
      case 'h': return fetch(number<uint8_t>());
      case 'j': return fetch(number<uint32_t>());
      case 't': return push({.kind = Kind::kTuple, .items = pop_to_mark()});
      case '\x85': case '\x86': case '\x87':
        return push({.kind = Kind::kTuple, .items = pop(static_cast<unsigned char>(opcode) - 0x84u)});
      case 'e': {
        auto items = pop_to_mark();
        const Value* list = pop();
        if (list->kind != Kind::kList || !list->items.empty()) throw Refused("its constants are damaged: no list");
        return push({.kind = Kind::kList, .items = std::move(items)});
      }
      case 'Q': return memory(pop());
      case '\x81': {
        const auto made = pop(2);
        if (made[0]->kind != Kind::kName || made[1]->kind != Kind::kTuple || !made[1]->items.empty())
          throw Refused("its constants make an object in another way than torch does");
        return stack_.push_back(made[0]);
      }
      case 'R': case 'b': {
        const auto called = pop(2);
        return push(call(called[0], called[1], opcode == 'b'));
      }
      default: throw Refused("its constants use what no known network needs");
    }
  }

  void memory(const Value* given) {
    static const std::map<std::string, int64_t, std::less<>> kBytes = {
        {"Float", 4}, {"Double", 8}, {"Half", 2}, {"BFloat16", 2}, {"Long", 8},  {"Int", 4},
        {"Short", 2}, {"Char", 1},   {"Byte", 1}, {"Bool", 1},     {"QInt8", 1},
    };
    const auto& items = given->items;
    if (given->kind != Kind::kTuple || items.size() != 5 || !is_text(items[0], "storage") ||
        items[1]->kind != Kind::kName || items[2]->kind != Kind::kText || !is_text(items[3], "cpu"))
      throw Refused("its constants name a memory in another way than torch does");
    std::string_view kind = items[1]->text;
    const auto size = kind.starts_with("torch ") && kind.ends_with("Storage") && kind.size() > 13
                          ? kBytes.find(kind = kind.substr(6, kind.size() - 13))
                          : kBytes.end();
    static const std::string kNothing;
    const auto found = memories_.find(items[2]->text);
    const std::string& content = found == memories_.end() ? kNothing : found->second;
    const int64_t count = size_of(items[4]);
    if (size == kBytes.end()) throw Refused("its constants have numbers of another kind than networks do");
    if (content.size() % size->second || static_cast<size_t>(count) != content.size() / size->second)
      throw Refused("a tensor of it is said to have " + std::to_string(count) + " numbers, its memory has " +
                    std::to_string(content.size()) + " bytes");
    if (content.size() > readable_) throw Refused("its tensors take the same memory again and again");
    readable_ -= content.size();
    push({.kind = Kind::kStorage, .number = count, .text = size->first, .content = &content});
  }

  std::string_view left_;
  const Parts& memories_;
  size_t readable_ = 0;  // bytes of memories: torch reads each anew
  std::deque<Value> values_;
  std::vector<const Value*> stack_, kept_;
};

}  // namespace

void check_constants(std::string_view pickled, const Parts& memories) {
  Machine machine(pickled, memories);
  const Value* constants = machine.run();
  if (constants->kind != Kind::kTuple) throw Refused("its constants are no list of tensors");
  for (const Value* value : constants->items)
    if (value->kind != Kind::kArray && value->kind != Kind::kPacked)
      throw Refused("one of its constants is no tensor, and no weight in int8");
}

}  // namespace checked
