from iam.mlir.ir import Location, Type

class FeaturesType(Type):
    """``!iam.features<ROWSxDICTIONARYxELEMENT[, k = K]>``: sparse codes, exactly k slots per row or compressed rows."""

    @staticmethod
    def get(
        rows: int | None, dictionary: int, element_type: Type, k: int | None = None, loc: Location | None = None
    ) -> FeaturesType:
        """The type. ``rows`` None is dynamic, ``k`` None is compressed rows.

        Raises:
            ValueError: rows < 0, dictionary < 1, k < 1 or above the dictionary, or an element type that is not f32.
        """
    @property
    def rows(self) -> int | None: ...
    @property
    def dictionary(self) -> int: ...
    @property
    def element_type(self) -> Type: ...
    @property
    def k(self) -> int | None: ...
