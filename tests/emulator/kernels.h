// shim/kernels.cu and shim/decode.cu for T, HEAD and GROUP in a namespace of that NAME, after cuda_emu.h: included once for each. EACH, when
// defined, is what else belongs there.
namespace NAME
{
#include "shim/kernels.cu"
#include "shim/decode.cu"
#ifdef EACH
EACH
#endif
}
#undef T
#undef WARPS
#undef VEC
#undef LANES
#undef TEAMS
#undef KEYS
#undef HEAD
#undef GROUP
#undef NAME
