// What the library says of itself, for the doctor.
#include "../apply/isa.h"

extern "C" __attribute__((visibility("default"))) const char* keras_legacy_opt_isa() {
  return keras_legacy_opt::IsaName(keras_legacy_opt::ChosenIsa());
}
