// HOST_DEVICE marks functions that both the host compiler and nvcc compile.
#pragma once

#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__
#else
#define HOST_DEVICE
#endif
