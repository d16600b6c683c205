#include "registration.h"

#include <string>

namespace keras_legacy_opt {
namespace {

using tensorflow::register_op::OpDefBuilderWrapper;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// The shape that the handle at `input` promises, of a group that of its i-th member; checks the element type on the
// way.
absl::Status VariableShape(InferenceContext* c, int input, ShapeHandle* shape, int i = 0) {
  const auto* known = c->input_handle_shapes_and_types(input);
  if (known == nullptr || static_cast<int>(known->size()) <= i) {
    *shape = c->UnknownShape();
    return absl::OkStatus();
  }
  tensorflow::DataType dtype;
  KLO_RETURN_IF_ERROR(c->GetAttr("T", &dtype));
  if ((*known)[i].dtype != tensorflow::DT_INVALID && (*known)[i].dtype != dtype) {
    return absl::InvalidArgumentError(absl::StrCat("Variable or slot at input ", input, " holds ",
                                                   tensorflow::DataTypeString((*known)[i].dtype), ", not ",
                                                   tensorflow::DataTypeString(dtype), "."));
  }
  *shape = (*known)[i].shape;
  return absl::OkStatus();
}

absl::Status ScalarShapes(InferenceContext* c, int input, int hypers) {
  ShapeHandle unused;
  for (int i = 0; i < hypers; ++i) KLO_RETURN_IF_ERROR(c->WithRank(c->input(input + i), 0, &unused));
  return absl::OkStatus();
}

// Of a dense op, whose variables and slots are inputs or members of the group that is the first input.
absl::Status DenseShapes(InferenceContext* c, bool grouped, const Inputs& inputs) {
  int count;
  KLO_RETURN_IF_ERROR(c->GetAttr("N", &count));
  const int state = inputs.slot_count + 1, first_scalar = state - inputs.scalar_slots;
  const int first_grad = grouped ? 1 : state * count;
  for (int i = 0; i < count; ++i) {
    ShapeHandle shape = c->input(first_grad + i);
    for (int k = i; k < state * count; k += count) {
      ShapeHandle variable;
      KLO_RETURN_IF_ERROR(grouped ? VariableShape(c, 0, &variable, k) : VariableShape(c, k, &variable));
      if (k >= first_scalar * count) {
        KLO_RETURN_IF_ERROR(c->WithRank(variable, 0, &variable));
      } else {
        KLO_RETURN_IF_ERROR(c->Merge(shape, variable, &shape));
      }
    }
  }
  return ScalarShapes(c, first_grad + count, inputs.hyper_count);
}

absl::Status SparseShapes(InferenceContext* c, const Inputs& inputs) {
  const int state = inputs.slot_count + 1;
  ShapeHandle shape, slot, indices, rows, expected;
  KLO_RETURN_IF_ERROR(VariableShape(c, 0, &shape));
  for (int k = 1; k < state; ++k) {
    KLO_RETURN_IF_ERROR(VariableShape(c, k, &slot));
    if (k >= state - inputs.scalar_slots) {
      KLO_RETURN_IF_ERROR(c->WithRank(slot, 0, &slot));
    } else {
      KLO_RETURN_IF_ERROR(c->Merge(shape, slot, &shape));
    }
  }
  KLO_RETURN_IF_ERROR(c->WithRankAtLeast(shape, 1, &shape));
  KLO_RETURN_IF_ERROR(c->WithRank(c->input(state + 1), 1, &indices));
  KLO_RETURN_IF_ERROR(c->Subshape(shape, 1, &rows));
  KLO_RETURN_IF_ERROR(c->Concatenate(indices, rows, &expected));
  KLO_RETURN_IF_ERROR(c->Merge(c->input(state), expected, &expected));
  return ScalarShapes(c, state + 2, inputs.hyper_count);
}

// The scalars and what is optional. New inputs come last, so that graphs which were saved without them still load.
OpDefBuilderWrapper WithScalars(OpDefBuilderWrapper op, Names hypers, bool grouped = false) {
  for (const std::string& name : Split(hypers)) op = std::move(op).Input(name + ": U");
  op = std::move(op)
           .Input("transform: transforms * U")
           .Input("condition: conditions * bool")
           .Input("per_variable: per_variables * U");
  if (!grouped) op = std::move(op).Input("average: averages * resource").Attr("averages: int >= 0 = 0");
  return std::move(op)
      .Input("average_weight: average_weights * U")
      .Attr("T: {half, bfloat16, float, double}")
      .Attr("U: {float, double}")
      .Attr("transforms: int >= 0 = 0")
      .Attr("conditions: int >= 0 = 0")
      .Attr("per_variables: int >= 0 = 0")
      .Attr("average_weights: int >= 0 = 0")
      .Attr("use_locking: bool = true")
      .SetIsStateful();
}

}  // namespace

std::vector<std::string> Split(Names names) {
  std::vector<std::string> result;
  for (const char* c = names; *c != '\0'; ++c) {
    if (c == names || *c == ',') result.emplace_back();
    if (*c != ',' && *c != ' ') result.back() += *c;
  }
  return result;
}

OpDefBuilderWrapper DenseOp(const char* name, const Inputs& inputs) {
  OpDefBuilderWrapper op(name);
  op = std::move(op).Input("var: N * resource");
  for (const std::string& slot : Split(inputs.slots)) op = std::move(op).Input(slot + ": N * resource");
  op = WithScalars(std::move(op).Input("grad: N * T"), inputs.hypers).Attr("N: int >= 1");
  return std::move(op).SetShapeFn([=](InferenceContext* c) { return DenseShapes(c, false, inputs); });
}

OpDefBuilderWrapper GroupOp(const char* name, const Inputs& inputs) {
  return WithScalars(OpDefBuilderWrapper(name).Input("group: resource").Input("grad: N * T"), inputs.hypers, true)
      .Attr("N: int >= 1")
      .SetShapeFn([=](InferenceContext* c) { return DenseShapes(c, true, inputs); });
}

OpDefBuilderWrapper SparseOp(const char* name, const Inputs& inputs) {
  OpDefBuilderWrapper op(name);
  op = std::move(op).Input("var: resource");
  for (const std::string& slot : Split(inputs.slots)) op = std::move(op).Input(slot + ": resource");
  op = WithScalars(std::move(op).Input("grad: T").Input("indices: Tindices"), inputs.hypers)
           .Attr("Tindices: {int32, int64}")
           .Attr("variable_name: string = ''");
  return std::move(op).SetShapeFn([=](InferenceContext* c) { return SparseShapes(c, inputs); });
}

}  // namespace keras_legacy_opt
