// Symbols that leave libiam_runtime.so. Everything else is compiled with hidden visibility.
#pragma once

#define IAM_RT_EXPORT __attribute__((visibility("default")))
