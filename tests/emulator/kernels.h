// shim/kernels.cu for T, HEAD and GROUP in a namespace of that NAME, after cuda_emu.h: included once for each. EACH, when
// defined, is what else belongs there.
namespace NAME
{
#include "shim/kernels.cu"
#ifdef EACH
EACH
#endif
}
#undef T
#undef HEAD
#undef GROUP
#undef NAME
