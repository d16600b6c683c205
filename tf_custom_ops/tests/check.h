// The few lines a C++ test needs.
#ifndef KERAS_LEGACY_OPT_TESTS_CHECK_H_
#define KERAS_LEGACY_OPT_TESTS_CHECK_H_

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace keras_legacy_opt {

// How many there were, after `more`.
inline int Checks(int more = 0) {
  static std::atomic<int> checks = 0;
  return checks += more;
}

}  // namespace keras_legacy_opt

// Stops at the first failure, with whatever is streamed into the second argument.
#define CHECK(condition, message)                                                                  \
  do {                                                                                             \
    ::keras_legacy_opt::Checks(1);                                                                 \
    if (!(condition)) {                                                                            \
      std::ostringstream text;                                                                     \
      text << message;                                                                             \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, text.str().c_str()); \
      std::exit(1);                                                                                \
    }                                                                                              \
  } while (false)

#endif  // KERAS_LEGACY_OPT_TESTS_CHECK_H_
