// A reader of JSON: what manifests and weights describe themselves with.
#pragma once

#include <cctype>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace detc {

class Json {
 public:
  /// Throws std::runtime_error where the text is not JSON.
  static Json parse(const std::string& text) {
    Reader reader{text};
    Json value = reader.value(0);
    reader.blanks();
    if (reader.at != text.size()) reader.fail();
    return value;
  }

  /// A member of an object. Throws where it is not there.
  const Json& operator[](const std::string& name) const {
    auto found = members_.find(name);
    if (found == members_.end()) throw std::runtime_error("there is no \"" + name + "\" in the description");
    return found->second;
  }
  bool has(const std::string& name) const { return members_.count(name) != 0; }
  const std::vector<Json>& items() const { return items_; }
  const std::map<std::string, Json>& members() const { return members_; }
  const std::string& string() const { return text_; }
  double number() const { return std::strtod(text_.c_str(), nullptr); }
  /// Whole numbers are kept as they are written: offsets may be larger than a double holds.
  long long integer() const { return std::strtoll(text_.c_str(), nullptr, 10); }

 private:
  struct Reader {
    const std::string& text;
    std::size_t at = 0;

    [[noreturn]] void fail() const {
      throw std::runtime_error("the description is no JSON, from byte " + std::to_string(at));
    }
    void blanks() {
      while (at < text.size() && std::isspace(static_cast<unsigned char>(text[at]))) ++at;
    }
    char next() {
      if (at >= text.size()) fail();
      return text[at++];
    }
    bool take(char wanted) {
      blanks();
      if (at >= text.size() || text[at] != wanted) return false;
      ++at;
      return true;
    }
    void expect(char wanted) {
      if (!take(wanted)) fail();
    }

    Json value(int depth) {
      if (depth > 64) fail();
      blanks();
      Json made;
      if (take('{')) {
        if (take('}')) return made;
        do {
          blanks();
          expect('"');
          std::string name = string();
          expect(':');
          made.members_.emplace(std::move(name), value(depth + 1));
        } while (take(','));
        expect('}');
      } else if (take('[')) {
        if (take(']')) return made;
        do made.items_.push_back(value(depth + 1));
        while (take(','));
        expect(']');
      } else if (take('"')) {
        made.text_ = string();
      } else {
        while (at < text.size() && (std::isalnum(static_cast<unsigned char>(text[at])) || text[at] == '-' ||
                                    text[at] == '+' || text[at] == '.'))
          made.text_ += text[at++];
        if (made.text_.empty()) fail();
      }
      return made;
    }

    /// The rest of a string, as UTF-8.
    std::string string() {
      std::string made;
      for (char c = next(); c != '"'; c = next()) {
        if (c != '\\') {
          made += c;
          continue;
        }
        switch (c = next()) {
          case 'n': made += '\n'; break;
          case 't': made += '\t'; break;
          case 'r': made += '\r'; break;
          case 'b': made += '\b'; break;
          case 'f': made += '\f'; break;
          case 'u': character(made); break;
          default: made += c;
        }
      }
      return made;
    }
    unsigned hex() {
      unsigned code = 0;
      for (int digit = 0; digit < 4; ++digit) {
        char c = next();
        if (!std::isxdigit(static_cast<unsigned char>(c))) fail();
        bool digits = std::isdigit(static_cast<unsigned char>(c)) != 0;
        code = 16 * code + static_cast<unsigned>(digits ? c - '0' : (c | 32) - 'a' + 10);
      }
      return code;
    }
    void character(std::string& made) {
      unsigned code = hex();
      if (code >= 0xD800 && code < 0xDC00) {  // the first half of a pair
        if (next() != '\\' || next() != 'u') fail();
        code = 0x10000 + ((code - 0xD800) << 10) + (hex() - 0xDC00);
      }
      if (code < 0x80) {
        made += static_cast<char>(code);
      } else if (code < 0x800) {
        made += {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
      } else if (code < 0x10000) {
        made += {static_cast<char>(0xE0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 63)),
                 static_cast<char>(0x80 | (code & 63))};
      } else {
        made += {static_cast<char>(0xF0 | code >> 18), static_cast<char>(0x80 | (code >> 12 & 63)),
                 static_cast<char>(0x80 | (code >> 6 & 63)), static_cast<char>(0x80 | (code & 63))};
      }
    }
  };

  std::string text_;
  std::vector<Json> items_;
  std::map<std::string, Json> members_;
};

}  // namespace detc
