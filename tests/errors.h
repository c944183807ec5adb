// EXPECT_FAILS(statement, code, "part of the message"): the statement throws fusion::Error with that code and text.
#pragma once

#include "fusion/base/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#define EXPECT_FAILS(statement, expected_code, part)                            \
  try {                                                                         \
    statement;                                                                  \
    ADD_FAILURE() << #statement " throws nothing, expected: " << part;          \
  } catch (const ::fusion::Error& error) {                                      \
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(expected_code)); \
    EXPECT_THAT(std::string(error.what()), ::testing::HasSubstr(part));         \
  }
