// A compiler of kernels that compiles none: its code tells tests/fake_driver.cc which ones there would be. It does as
// the environment says: FAKE_NVRTC_VERSION ("12.9"), FAKE_NVRTC_KNOWN ("80 90"), FAKE_NVRTC_FAIL (the errors of every
// text), FAKE_NVRTC_ERROR (the number of an error of every text), FAKE_NVRTC_LOG (a file, to which each program adds a
// line of its options).
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

namespace {

struct Program {
  std::string source, log, code;
};

constexpr int kInvalidInput = 3, kFailed = 6;

std::string Setting(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

std::vector<int> Known() {
  std::istringstream text(Setting("FAKE_NVRTC_KNOWN", "80 90"));
  std::vector<int> known;
  for (int each; text >> each;) known.push_back(each);
  return known;
}

// The kernels that are defined: KLO_DENSE_KERNEL(this, ...), at the beginning of lines.
std::string Symbols(const std::string& source) {
  std::istringstream lines(source);
  std::string symbols;
  for (std::string line; std::getline(lines, line);) {
    const size_t at = line.find("_KERNEL(");
    if (line.compare(0, 4, "KLO_") != 0 || at == std::string::npos) continue;
    const size_t begin = at + std::strlen("_KERNEL(");
    symbols += line.substr(begin, line.find(',') - begin) + ' ';
  }
  return symbols;
}

void AddToLog(const std::string& line) {
  const std::string path = Setting("FAKE_NVRTC_LOG", "/dev/null");
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (write(file, line.data(), line.size()) < 0) std::abort();
  close(file);
}

int Give(const std::string& text, char* to) {
  std::memcpy(to, text.c_str(), text.size() + 1);
  return 0;
}

int GiveSize(const std::string& text, size_t* size) {
  *size = text.size() + 1;
  return 0;
}

}  // namespace

#define KLO_NVRTC extern "C" __attribute__((visibility("default")))

KLO_NVRTC int nvrtcVersion(int* major, int* minor) {
  return std::sscanf(Setting("FAKE_NVRTC_VERSION", "12.9").c_str(), "%d.%d", major, minor) == 2 ? 0 : kInvalidInput;
}
KLO_NVRTC const char* nvrtcGetErrorString(int error) { return error == kFailed ? "it failed" : "invalid input"; }
KLO_NVRTC int nvrtcGetNumSupportedArchs(int* count) {
  *count = static_cast<int>(Known().size());
  return 0;
}
KLO_NVRTC int nvrtcGetSupportedArchs(int* known) {
  for (int each : Known()) *known++ = each;
  return 0;
}
KLO_NVRTC int nvrtcCreateProgram(void** program, const char* source, const char*, int, const char* const*,
                                 const char* const*) {
  if (std::strstr(source, "#include \"") != nullptr) return kInvalidInput;
  *program = new Program{source, "", ""};
  return 0;
}
KLO_NVRTC int nvrtcDestroyProgram(void** program) {
  delete static_cast<Program*>(*program);
  return 0;
}
KLO_NVRTC int nvrtcCompileProgram(void* handle, int count, const char* const* options) {
  auto* program = static_cast<Program*>(handle);
  std::string target, all;
  for (int i = 0; i < count; ++i) {
    all += std::string(options[i]) + ' ';
    if (std::strncmp(options[i], "--gpu-architecture=", 19) == 0) target = options[i] + 19;
  }
  AddToLog(all + '\n');
  program->log = Setting("FAKE_NVRTC_FAIL", "");
  if (!program->log.empty()) return kFailed;
  if (const int error = std::atoi(Setting("FAKE_NVRTC_ERROR", "0").c_str())) return error;
  usleep(50000);  // as long as others could begin
  program->code = "FAKE " + target + ' ' + Symbols(program->source) + '.';
  return 0;
}
KLO_NVRTC int nvrtcGetProgramLogSize(void* program, size_t* size) {
  return GiveSize(static_cast<Program*>(program)->log, size);
}
KLO_NVRTC int nvrtcGetProgramLog(void* program, char* to) { return Give(static_cast<Program*>(program)->log, to); }
KLO_NVRTC int nvrtcGetCUBINSize(void* program, size_t* size) {
  return GiveSize(static_cast<Program*>(program)->code, size);
}
KLO_NVRTC int nvrtcGetCUBIN(void* program, char* to) { return Give(static_cast<Program*>(program)->code, to); }
KLO_NVRTC int nvrtcGetPTXSize(void* program, size_t* size) {
  return GiveSize(static_cast<Program*>(program)->code, size);
}
KLO_NVRTC int nvrtcGetPTX(void* program, char* to) { return Give(static_cast<Program*>(program)->code, to); }
