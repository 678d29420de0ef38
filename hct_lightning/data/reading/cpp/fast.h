// Functions that are compiled twice, for any CPU and for x86-64-v3 (2013 and later): wider vectors, shifts by a register.
#pragma once

#if !defined(__x86_64__) || !defined(__GLIBC__) || defined(HCT_JPEG_ONE_WAY)  // which sanitizers need
#define FAST
#elif defined(__clang__) ? __clang_major__ >= 18 : __GNUC__ >= 12
#define FAST __attribute__((target_clones("arch=x86-64-v3", "default"), flatten))
#else  // earlier ones choose by single features
#define FAST __attribute__((target_clones("avx2", "default"), flatten))
#endif
#define INLINE inline __attribute__((always_inline))
